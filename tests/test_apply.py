"""Plans written into models: values, reports, independence of everything else, and nothing lost on an error."""

import copy
import json
import math
import threading
from dataclasses import dataclass

import pytest
import torch
from modelling import mlp, same, values
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from lightning_init import apply, initialize
from lightning_init.apply import apply_
from lightning_init.fans import Block, Fans, Layout
from lightning_init.initializers import Initializer, Pretrained
from lightning_init.plan import make_plan
from lightning_init.rules import Rule

OLD_NORMS = pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning")


def test_the_report_has_the_documented_form_in_plain_json_types():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    report = initialize(model, "he_normal", seed=3)
    loaded = json.loads(json.dumps(report.to_dict()))
    assert loaded == report.to_dict()
    assert loaded["seed"] == 3
    assert [entry["name"] for entry in loaded["parameters"]] == [name for name, _ in model.named_parameters()]
    weight, bias, scale, _ = loaded["parameters"]
    achieved = weight.pop("achieved_std")
    assert weight == {
        "name": "0.weight",
        "module": "0",
        "shape": [8, 3, 3, 3],
        "initializer": "KaimingNormal(nonlinearity='relu', mode='fan_in', a=0.0)",
        "fan_in": 27,
        "fan_out": 72,
        "gain": math.sqrt(2),
        "target_std": math.sqrt(2 / 27),
        "why": "Conv2d weight",
    }
    assert achieved == pytest.approx(model[0].weight.double().std(correction=0).item(), rel=1e-6)
    assert (bias["target_std"], bias["achieved_std"], bias["fan_in"]) == (0, 0, None)
    assert (scale["initializer"], scale["target_std"], scale["achieved_std"]) == (None, None, 0)


def test_the_report_prints_one_line_for_each_parameter():
    report = initialize(nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2)), "he_normal", seed=0)
    lines = str(report).splitlines()
    header = ("parameter", "shape", "initializer", "fan_in", "fan_out", "gain", "target std", "achieved std", "why")
    assert lines[0].split() == " ".join(header).split(" ")
    assert lines[1].split()[:6] == ["0.weight", "2x3", "kaiming_normal", "3", "2", "1.414"]
    assert lines[-1] == "2 parameters initialized, 2 kept, seed 0"
    assert report.to_markdown().count("\n|") == 6


def test_the_global_random_stream_is_untouched():
    model = mlp(30, 20, 10)
    before = torch.get_rng_state()
    for name in ("orthogonal", "torch_default", "sparse", "trunc_normal", "he_uniform"):
        initialize(model, name)
        initialize(model, name, seed=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_same_seed_gives_the_same_values_whatever_else_is_there():
    small, large = mlp(20, 30, 10), mlp(20, 30, 10, 5)
    initialize(small, "he_normal", seed=7)
    initialize(large, "he_normal", seed=7)
    large_values = values(large)
    assert all(torch.equal(value, large_values[name]) for name, value in values(small).items())
    initialize(large, "he_normal", seed=8)
    assert not torch.equal(values(large)["0.weight"], large_values["0.weight"])


def test_layers_of_one_shape_differ():
    model = mlp(20, 20, 20)
    initialize(model, "he_normal", seed=0)
    assert not torch.equal(model[0].weight, model[2].weight)


def test_without_a_seed_it_comes_from_the_global_one():
    torch.manual_seed(5)
    first = mlp(9, 9)
    report = initialize(first, "normal")
    torch.rand(100)  # advancing the stream changes nothing
    second = mlp(9, 9)
    assert initialize(second, "normal").seed == report.seed == 5
    assert same(values(first), values(second))


@pytest.mark.parametrize("name", ["he_normal", "xavier_uniform", "orthogonal", "trunc_normal"])
def test_the_number_of_threads_does_not_matter(name):
    threads, models = torch.get_num_threads(), []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            models.append(mlp(300, 300, 300, 20))  # large and small ones
            initialize(models[-1], name, seed=0)
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)
    assert same(values(models[0]), values(models[1]))


def test_threads_are_for_large_parameters_only(monkeypatch):
    """Two threads that write small ones wait for the GIL longer than they work."""
    workers, write_, threads = set(), apply._write_, torch.get_num_threads()

    def seen_(plan, assignment):
        if threading.current_thread() is not threading.main_thread():
            workers.add(assignment.name)
        return write_(plan, assignment)

    monkeypatch.setattr(apply, "_write_", seen_)
    torch.set_num_threads(2)
    try:
        initialize(mlp(300, 300, 20), "normal", seed=0)
    finally:
        torch.set_num_threads(threads)
    assert workers == {"0.weight"}


def test_compilation_and_weight_norm_do_not_change_the_values():
    plain, normed, compiled = mlp(9, 8), mlp(9, 8), mlp(9, 8)
    parametrizations.weight_norm(normed[0])
    for model in (plain, normed, torch.compile(compiled)):
        initialize(model, "he_normal", seed=0)
    torch.testing.assert_close(normed[0].weight, plain[0].weight)
    assert torch.equal(compiled[0].weight, plain[0].weight)


def test_memory_format_does_not_change_the_values():
    plain, last = nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3).to(memory_format=torch.channels_last)
    initialize(plain, "he_normal", seed=0)
    initialize(last, "he_normal", seed=0)
    assert torch.equal(plain.weight, last.weight)
    assert last.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.complex64])
def test_every_dtype_reaches_its_target(dtype):
    model = nn.Linear(300, 200, dtype=dtype)
    report = initialize(model, "lecun_normal", seed=0)
    assert report.entries[0].achieved_std == pytest.approx(300**-0.5, rel=0.02)
    assert model.weight.dtype == dtype


def test_low_precision_is_the_rounded_single_precision():
    single, half = nn.Linear(30, 20), nn.Linear(30, 20, dtype=torch.bfloat16)
    initialize(single, "orthogonal", seed=0)
    initialize(half, "orthogonal", seed=0)
    assert torch.equal(half.weight, single.weight.bfloat16())


def test_the_padding_row_stays_zero_and_is_not_counted():
    model = nn.Embedding(300, 200, padding_idx=4)
    report = initialize(model, "normal", seed=0)
    assert torch.equal(model.weight[4], torch.zeros(200))
    assert report.entries[0].achieved_std == pytest.approx(1, rel=0.02)


@pytest.mark.parametrize("fans", ["module", "torch"])
def test_the_padding_row_stays_zero_behind_a_tied_weight_and_under_the_fans_of_torch(fans):
    model = nn.ModuleDict({"head": nn.Linear(6, 9, bias=False), "table": nn.Embedding(9, 6, padding_idx=4)})
    model["table"].weight = model["head"].weight
    (entry,) = initialize(model, "normal", seed=0, fans=fans).entries
    assert model["table"].weight.eq(0).all(dim=1).nonzero().tolist() == [[4]]
    assert (entry.fan_in, entry.fan_out) == (6, 9)
    alone = nn.Embedding(9, 6, padding_idx=4)
    initialize(alone, "normal", seed=0, fans=fans)
    assert alone.weight.eq(0).all(dim=1).nonzero().tolist() == [[4]]


@pytest.mark.parametrize("name", ["xavier_uniform", "xavier_normal", "kaiming_uniform", "kaiming_normal", "orthogonal"])
@pytest.mark.parametrize(
    "module",
    [
        nn.ConvTranspose2d(16, 8, 4, stride=2, groups=2),
        nn.Conv1d(8, 8, 3, groups=4),
        nn.LSTM(6, 5, proj_size=2),
        nn.MultiheadAttention(8, 2, kdim=3, vdim=5),
        nn.MultiheadAttention(8, 2),
        nn.Embedding(7, 4),
        nn.Bilinear(3, 4, 5),
    ],
    ids=str,
)
def test_with_the_fans_of_torch_values_are_torchs_to_the_bit(name, module):
    options = {"nonlinearity": "relu"} if name.startswith("kaiming") else {}
    plan = make_plan(module, name, fans="torch", seed=3)
    apply_(plan)
    weights = [assignment for assignment in plan.assignments if type(assignment.initializer).__name__ != "Zeros"]
    weights = [assignment for assignment in weights if assignment.place.parameter.ndim > 1]
    assert weights
    for assignment in weights:
        theirs = torch.empty_like(assignment.place.parameter)
        generator = plan.generator(assignment, theirs.device)
        getattr(nn.init, f"{name}_")(theirs, generator=generator, **options)
        assert torch.equal(assignment.place.parameter, theirs), assignment.name


@pytest.mark.parametrize("row", [0, 2, -1])
def test_the_padding_row_does_not_lower_the_achieved_std(row):
    model = nn.Embedding(3, 20_000, padding_idx=row)  # counted, it would be 0.82
    assert initialize(model, "normal", seed=0).entries[0].achieved_std == pytest.approx(1, rel=0.02)
    model = nn.ParameterDict({"table": nn.Parameter(torch.empty(3, 20_000))})
    layout = Layout((Block(3, Fans(1, 20_000)),), transposed=True, padding_row=row)
    report = initialize(model, "zeros", rules=[Rule("table", "lecun_normal", fans=layout)], seed=0)
    assert report.entries[0].achieved_std == pytest.approx(1, rel=0.02)


def test_the_target_std_weighs_blocks_by_their_rows():
    model = nn.ParameterDict({"packed": nn.Parameter(torch.empty(1000, 100))})
    layout = Layout((Block(900, Fans(4, 1)), Block(100, Fans(100, 1))))
    (entry,) = initialize(model, "zeros", rules=[Rule("packed", "lecun_normal", fans=layout)], seed=0).entries
    assert entry.target_std == pytest.approx(math.sqrt(0.9 / 4 + 0.1 / 100))
    assert entry.achieved_std == pytest.approx(entry.target_std, rel=4 / math.sqrt(2 * 1e5) * 1.1)


def test_normalizations_and_buffers_stay():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    model(torch.randn(8, 4))
    nn.init.constant_(model[1].weight, 0.5)
    before = copy.deepcopy(model[1].state_dict())
    initialize(model, "ones")
    assert all(torch.equal(before[key], value) for key, value in model[1].state_dict().items())


def test_a_tied_weight_is_written_once_and_the_report_shows_the_tie():
    model = nn.ModuleDict({"embed": nn.Embedding(70, 30), "head": nn.Linear(30, 70, bias=False)})
    model["head"].weight = model["embed"].weight
    (entry,) = initialize(model, "normal", seed=0).entries
    assert entry.name == "embed.weight"
    assert entry.why == "Embedding weight; tied with head.weight"


def test_gates_are_orthogonal_each():
    model = nn.LSTM(16, 16)
    initialize(model, "orthogonal", seed=0)
    for gate in model.weight_hh_l0.chunk(4):
        torch.testing.assert_close(gate @ gate.T, torch.eye(16), atol=1e-5, rtol=0)
    assert model.bias_ih_l0.tolist() == [0.0] * 16 + [1.0] * 16 + [0.0] * 32
    assert not model.bias_hh_l0.any()


def test_a_missed_target_is_explained():
    model = nn.Sequential(parametrizations.spectral_norm(nn.Linear(100, 100)))
    entry = initialize(model, "he_normal", seed=0).entries[0]
    assert entry.name == "0.parametrizations.weight.original"
    assert entry.achieved_std < 0.06 < entry.target_std
    assert "effective 0.weight, computed by its parametrization; which turns the drawn std 0.14" in entry.why


@pytest.mark.parametrize("orthogonal_map", ["matrix_exp", "cayley", "householder"])
def test_an_orthogonal_parametrization_makes_the_drawn_weight_orthogonal(orthogonal_map):
    model = nn.Sequential(parametrizations.orthogonal(nn.Linear(8, 8), orthogonal_map=orthogonal_map))
    entry = initialize(model, "he_normal", seed=0).entries[0]
    assert entry.achieved_std == pytest.approx(8**-0.5, rel=1e-4)
    assert "which turns the drawn std" in entry.why
    torch.testing.assert_close(model[0].weight @ model[0].weight.T, torch.eye(8), atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", [(5, 9), (9, 5)])
def test_a_parametrization_that_draws_draws_from_the_parameters_own_stream(shape):
    models = [nn.Sequential(parametrizations.orthogonal(nn.Linear(*shape))) for _ in range(2)]
    before = torch.get_rng_state()
    initialize(models[0], "orthogonal", seed=0)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    initialize(models[1], "orthogonal", seed=0)
    first, second = (model.state_dict() for model in models)
    assert all(torch.equal(first[key], second[key]) for key in first)


class Absolute(nn.Module):
    """A parametrization without right_inverse."""

    def forward(self, stored):
        return stored.abs()


def test_a_parametrization_that_takes_no_value_is_refused_by_name():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    parametrize.register_parametrization(model[1], "weight", Absolute())
    before = values(model)
    with pytest.raises(
        NotImplementedError, match=r"1.weight \(3, 3\) is computed by its parametrization.*None in rules"
    ):
        initialize(model, "he_normal")
    assert same(before, values(model))
    initialize(model, "he_normal", rules={"1.weight": None})


def test_integers_are_kept_and_padding_does_not_touch_pretrained_rows():
    model = nn.Embedding(5, 3, padding_idx=0)
    model.steps = nn.Parameter(torch.zeros(2, dtype=torch.long), requires_grad=False)
    report = initialize(model, Pretrained({"weight": torch.ones(5, 3)}), frozen="initialize")
    assert torch.equal(model.weight, torch.ones(5, 3))
    assert report.entries[1].why == "kept: torch.int64 is not a floating-point type"


def test_gradients_history_and_flags_are_left_alone():
    model = mlp(5, 5)
    model(torch.randn(3, 5)).sum().backward()
    grads = [parameter.grad.clone() for parameter in model.parameters()]
    initialize(model, "orthogonal")
    for parameter, grad in zip(model.parameters(), grads, strict=True):
        assert torch.equal(parameter.grad, grad)
        assert parameter.requires_grad
        assert parameter.is_leaf


def test_a_model_without_parameters_gives_an_empty_report():
    assert initialize(nn.ReLU(), "zeros", seed=0).to_dict() == {"seed": 0, "parameters": []}


@pytest.mark.parametrize("default", [torch.device("meta"), torch.device("cpu")])
def test_default_device_and_dtype_do_not_matter(default):
    model, reference = mlp(9, 8), mlp(9, 8)
    initialize(reference, "orthogonal", seed=0)
    try:
        torch.set_default_dtype(torch.bfloat16)
        with default:
            initialize(model, "orthogonal", seed=0)
    finally:
        torch.set_default_dtype(torch.float32)
    assert same(values(model), values(reference))


@pytest.mark.parametrize("threads", [1, 2])
def test_a_model_made_in_inference_mode_is_initialized_there(threads):
    expected, before = mlp(300, 300, 5), torch.get_num_threads()
    initialize(expected, "orthogonal", seed=0)
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            model = mlp(300, 300, 5)
            initialize(model, "orthogonal", seed=0)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), expected.parameters(), strict=True))


@dataclass(frozen=True)
class SaysOne(Initializer):
    """Aims at a std of 1, and draws another."""

    drawn: float = 1.0

    def target_std(self, shape, fans):
        return 1.0

    def fill_(self, block, fans, generator):
        block.normal_(0, self.drawn, generator=generator)


@pytest.mark.parametrize(
    ("drawn", "remark"),
    [
        (1.0, ""),
        (2.0, "; SaysOne.target_std says 1, and its values have 2."),
        (math.inf, "; not all are finite"),
    ],
)
def test_a_target_that_the_values_do_not_have_is_said(drawn, remark):
    (entry, _) = initialize(nn.Linear(100, 100), SaysOne(drawn), seed=0).entries
    assert entry.why.startswith("Linear weight" + remark)
    assert bool(remark) == (";" in entry.why)


@pytest.mark.parametrize("name", ["sparse", "normal", "orthogonal", "he_uniform", "ones", "keras_truncated_normal"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_chance_is_no_missed_target(name, dtype):
    for seed in range(30):
        assert initialize(nn.Linear(30, 20, dtype=dtype), name, seed=seed).entries[0].why == "Linear weight"
