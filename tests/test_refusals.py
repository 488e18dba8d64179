"""What cannot be written is refused by name, and a failure half-way leaves the model as it was."""

import copy
from dataclasses import dataclass

import pytest
import torch
from modelling import mlp, same, values
from torch import nn
from torch.nn.utils import parametrizations

from lightning_init import initialize
from lightning_init.initializers import Initializer, Normal, Pretrained

OLD_NORMS = pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning")


@dataclass(frozen=True)
class FailsOnWide(Initializer):
    """Writes narrow weights and raises on wide ones, half-way through a model."""

    def target_std(self, shape, fans):
        return None

    def fill_(self, block, fans, generator):
        block.fill_(3)
        if block.shape[0] > 10:
            raise RuntimeError("no more")


def test_a_failure_half_way_leaves_the_model_as_it_was_and_names_the_layer():
    model = mlp(5, 6, 20)
    parametrizations.weight_norm(model[0])
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(RuntimeError, match=r"2.weight \(20, 6\): no more"):
        initialize(model, FailsOnWide())
    after = model.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_the_meta_device_is_refused_by_name():
    with pytest.raises(ValueError, match=r"0.weight, 0.bias on the meta device.*to_empty"):
        initialize(nn.Sequential(nn.Linear(3, 3, device="meta")), "normal")


def expanded(layer):
    layer.weight = nn.Parameter(torch.zeros(1, 1).expand(3, 3))


def made_in_inference_mode(layer):
    with torch.inference_mode():
        layer.weight = nn.Parameter(torch.zeros(3, 3), requires_grad=False)


def sparse(layer):
    layer.weight = nn.Parameter(torch.eye(3).to_sparse(), requires_grad=False)


def four_bits(layer):
    layer.weight = nn.Parameter(torch.zeros(3, 3, dtype=torch.uint8).view(torch.float4_e2m1fn_x2), requires_grad=False)


@pytest.mark.parametrize("break_", [expanded, made_in_inference_mode, sparse, four_bits])
def test_memory_that_cannot_be_written_is_refused_by_name_before_anything_is(break_):
    model = mlp(3, 3, 3)
    break_(model[2])
    before = model[0].weight.clone()
    with pytest.raises(NotImplementedError, match=r"2.weight \(3, 3\) .*keep it with None in rules"):
        initialize(model, "he_normal", frozen="initialize")
    assert torch.equal(model[0].weight, before)
    initialize(model, "he_normal", rules={"2.weight": None}, frozen="initialize")


def test_a_part_of_memory_that_is_shared_is_refused_by_name_and_slices_of_one_buffer_are_not():
    memory = torch.zeros(8, 4)
    model = nn.ParameterDict({"a": nn.Parameter(memory[:4]), "b": nn.Parameter(memory[4:])})
    initialize(model, "zeros", rules={"*": "ones"})
    assert memory.eq(1).all()
    model["c"] = nn.Parameter(memory[2:6])
    with pytest.raises(ValueError, match="a and c share a part of their memory"):
        initialize(model, "zeros", rules={"*": "zeros"})
    assert memory.eq(1).all()
    initialize(model, "zeros", rules={"c": None, "*": "zeros"})


class NoLabel(Normal):
    @property
    def label(self):
        raise RuntimeError("no label")


class NoTarget(FailsOnWide):
    def target_std(self, shape, fans):
        raise ValueError("no target")


@pytest.mark.parametrize(("initializer", "message"), [(NoLabel(), "no label"), (NoTarget(), "no target")])
def test_an_initializer_that_cannot_be_shown_fails_before_anything_is_written(initializer, message):
    model = mlp(3, 3)
    before = values(model)
    with pytest.raises((RuntimeError, ValueError), match=message):
        initialize(model, initializer)
    assert same(before, values(model))


def test_a_failure_leaves_memory_shared():
    model = nn.Linear(20, 20).share_memory()
    with pytest.raises(RuntimeError, match="no more"):
        initialize(model, FailsOnWide())
    assert model.weight.is_shared()


def test_memory_runs_out_at_the_largest_parameter_first_and_nothing_is_written(monkeypatch):
    empty = torch.empty

    def scarce(*shape, **options):
        if empty(*shape, device="meta").numel() > 1000:
            raise torch.OutOfMemoryError("out of memory")
        return empty(*shape, **options)

    model = mlp(5, 6, 200).bfloat16()  # drawn in float32 beside the parameter
    before = values(model)
    monkeypatch.setattr(torch, "empty", scarce)
    with pytest.raises(torch.OutOfMemoryError, match=r"2.weight \(200, 6\): out of memory"):
        initialize(model, "normal", seed=0)
    assert same(before, values(model))


def test_memory_that_runs_out_amid_the_blocks_of_a_parameter_leaves_it_as_it_was(monkeypatch):
    qr, calls = torch.linalg.qr, []

    def scarce(matrix):
        calls.append(matrix)
        if len(calls) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return qr(matrix)

    model = nn.LSTM(5, 300)
    before = values(model)
    monkeypatch.setattr(torch.linalg, "qr", scarce)
    with pytest.raises(torch.OutOfMemoryError, match=r"weight_hh_l0 \(1200, 300\): out of memory"):
        initialize(model, "orthogonal", seed=0)
    assert len(calls) == 3
    assert same(before, values(model))


@OLD_NORMS
@pytest.mark.parametrize("norm", [parametrizations.weight_norm, nn.utils.weight_norm])
def test_a_value_that_a_norm_turns_into_nan_is_refused(norm):
    model = nn.Sequential(norm(nn.Linear(4, 3)))
    before = values(model)
    with pytest.raises(NotImplementedError, match=r"0.weight \(3, 4\) is computed by its .* not finite of zeros"):
        initialize(model, "zeros")
    assert same(before, values(model))


def test_what_a_narrow_type_cannot_hold_is_said():
    half = nn.Linear(50, 50).half()
    assert "cannot hold the std 1e-09" in initialize(half, Normal(std=1e-9)).entries[0].why
    assert "some are not finite" in initialize(half, Normal(std=1e6)).entries[0].why
    assert initialize(half, Normal(std=0.02)).entries[0].why == "Linear weight"


def test_pretrained_weights_alone_fill_the_whole_model():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.PReLU())
    state = {name: torch.rand_like(value) for name, value in model.named_parameters()}
    report = initialize(model, Pretrained(state))
    assert same(values(model), state)
    assert len(str(report).splitlines()) == 7
