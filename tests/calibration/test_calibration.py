"""Calibrations: each ends where its paper says, on real architectures, and leaves everything else as it was."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision import models

from lightning_init import calibrate, initialize
from lightning_init.auto import Auto
from lightning_init.calibration import DenoisingAutoencoders, Krahenbuhl, Lsuv, Rbm, apply_calibrated_
from lightning_init.initializers import Normal
from lightning_init.plan import make_plan
from tests.calibration.models import differing, mlp, state


def vgg11():
    model = models.vgg11(num_classes=10, dropout=0.0)
    model.avgpool = nn.AdaptiveAvgPool2d(1)
    model.classifier[0], model.classifier[3], model.classifier[6] = (
        nn.Linear(512, 64),
        nn.Linear(64, 64),
        nn.Linear(64, 9),
    )
    return model, torch.rand(4, 3, 32, 32)


def resnet18():
    return models.resnet18(num_classes=10), torch.rand(8, 3, 32, 32)


def transformer(norm_first=False):
    layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True, norm_first=norm_first)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), torch.randn(8, 10, 32)


def pre_norm():
    return transformer(norm_first=True)


def outputs(model, x):
    """Module -> the variance of its output, by plain hooks."""
    found = {}

    def note(module, args, output):
        values = output[0] if isinstance(output, tuple) else output
        found.setdefault(module, float(values.double().var(correction=0)))

    handles = [module.register_forward_hook(note) for module in model.modules()]
    with torch.no_grad():
        model(x)
    for handle in handles:
        handle.remove()
    return found


# --- LSUV ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [vgg11, resnet18, transformer, pre_norm])
def test_lsuv_ends_within_its_tolerance_in_every_layer(make):
    tolerance = 0.05
    model, x = make()
    initialize(model, "orthogonal", seed=0)
    if make is vgg11:  # the start alone is not enough
        assert not all(abs(v - 1) < tolerance for m, v in outputs(model, x).items() if isinstance(m, nn.Conv2d))
    before = state(model)
    done = Lsuv().calibrate_(model, [x])
    changed = {one.parameter for one in done.layers if one.iterations}
    assert differing(before, state(model)) == changed
    assert len(changed) > 3
    found = outputs(model, x)
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.MultiheadAttention)) or type(module) is nn.Linear:
            assert abs(found[module] - 1) < tolerance


def test_lsuv_keeps_the_directions_of_the_start():
    model, x = mlp(nn.Tanh), torch.randn(64, 16)
    initialize(model, "orthogonal", seed=0)
    before = copy.deepcopy(model)
    done = Lsuv().calibrate_(model, [x])
    assert len(done.layers) > 1
    for one in done.layers:
        old, new = before.get_parameter(one.parameter), model.get_parameter(one.parameter)
        torch.testing.assert_close(new, old * one.factor)
        assert one.after == pytest.approx(1, abs=0.05)


def test_lsuv_follows_the_order_of_execution():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.second, self.first = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            return self.second(self.first(x).relu())

    done = Lsuv().calibrate_(Backwards(), [torch.randn(16, 8) * 100])
    assert [one.layer for one in done.layers] == ["first", "second"]
    assert done.layers[1].before < 10  # it met a calibrated input


def test_biases_need_several_iterations_and_the_report_says_when_they_are_not_enough():
    model, x = nn.Sequential(nn.Linear(16, 64)), torch.randn(64, 16)
    initialize(model, "small_random", bias="random_normal", seed=0)
    with torch.no_grad():
        model[0].bias.mul_(10)  # variance 0.25 by itself
    done = Lsuv().calibrate_(model, [x]).layers[0]
    assert done.iterations > 1
    assert abs(outputs(model, x)[model[0]] - 1) < 0.05
    with torch.no_grad():
        model[0].bias.mul_(4)
    assert "still off after 2 iterations" in str(Lsuv(iterations=2).calibrate_(model, [x]))


def test_parametrized_weights_are_scaled_through_their_parametrization():
    x = torch.randn(64, 16)
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(16, 32)), nn.ReLU(), nn.Linear(32, 8))
    Lsuv().calibrate_(model, [x])
    assert abs(outputs(model, x)[model[0]] - 1) < 0.05
    model = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(16, 32)))
    before = state(model)
    with pytest.raises(
        ValueError, match=r"layer 0: scaling 0.weight does not change .*parametrization fixes the scale"
    ):
        Lsuv().calibrate_(model, [x])
    assert differing(before, state(model)) == set()


def test_what_is_left_as_it_is_and_why():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.lstm = nn.Embedding(10, 8), nn.LSTM(8, 8, batch_first=True)
            self.body, self.frozen, self.unused = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
            self.head = nn.Linear(8, 10, bias=False)
            self.head.weight = self.embedding.weight
            self.frozen.requires_grad_(requires_grad=False)

        def forward(self, tokens):
            return self.head(self.frozen(self.body(self.lstm(self.embedding(tokens))[0])))

    model = Model()
    done = Lsuv().calibrate_(model, [torch.randint(10, (4, 7))])
    why = {one.parameter: one.why for one in done.layers}
    assert why["lstm.weight_ih_l0"] == "kept: its output is bounded by its own nonlinearity"
    assert why["frozen.weight"] == "kept: frozen"
    assert why["unused.weight"] == "kept: never runs in this forward pass"
    assert why["body.weight"].startswith("output variance")
    assert [name for name in why if "embedding" in name or "head" in name] == []  # tied: the embedding owns it


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_ties_are_understood_inside_a_wrapper_and_inside_computed_weights():
    net = nn.Sequential(nn.Linear(8, 8), nn.utils.parametrizations.weight_norm(nn.Linear(8, 8)), nn.Linear(8, 8))
    net[1].parametrizations.weight.original1 = net[2].weight = net[0].weight
    report = Lsuv().calibrate_(nn.Sequential(nn.DataParallel(net)), [torch.randn(64, 8)])
    why = {one.parameter: one.why for one in report.layers}
    assert why["0.1.weight"] == "kept: shares 0.0.weight"
    assert why["0.0.weight"].startswith("output variance")


@pytest.mark.parametrize("train", [False, True])
def test_everything_else_is_left_as_it_was(train):
    model = nn.Sequential(nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(32, 4))
    model.train(train)
    model(torch.randn(8, 16)).sum().backward()
    x = torch.randn(32, 16)
    kept, before = x.clone(), state(model)
    Lsuv().calibrate_(model, [x])
    assert differing(before, state(model)) <= {"0.weight", "4.weight"}
    assert torch.equal(x, kept)
    again = copy.deepcopy(model)
    torch.manual_seed(5)
    initialize(model, "orthogonal", seed=0)
    initialize(again, "orthogonal", seed=0)
    Lsuv().calibrate_(model, [x])
    torch.rand(3)
    Lsuv().calibrate_(again, [x])  # dropout masks come from a private seed
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("calibration", [Lsuv(), Krahenbuhl()])
def test_a_dead_layer_is_named_and_the_model_restored(calibration):
    model = mlp()
    initialize(model, "he_normal", seed=0)
    with torch.no_grad():
        model[2].bias -= 1e6
        model[4].bias.zero_()
    x, before = torch.randn(8, 16), state(model)
    with pytest.raises(ValueError, match=r"layer 4: .*(constant over the batch|are constant)"):
        calibration.calibrate_(model, [x], only=["0.weight", "4.weight", "4.bias"])
    assert differing(before, state(model)) == set()
    zero = mlp()
    initialize(zero, "he_normal", rules={"2.weight": "zeros"}, seed=0)
    with pytest.raises(ValueError, match="layer 2"):
        calibration.calibrate_(zero, [torch.randn(8, 16)])


@pytest.mark.parametrize(
    ("batches", "error", "match"),
    [
        ([], ValueError, "batches is empty"),
        (torch.randn(4, 16), TypeError, r"give \[batch\]"),
        ([torch.randn(4, 17)], ValueError, "forward pass fails in layer 0"),
        (["text"], TypeError, "batch must be a tensor"),
        ([torch.full((4, 16), torch.inf)], ValueError, "batch must be finite"),
    ],
)
def test_what_is_refused(batches, error, match):
    model = mlp()
    before = state(model)
    with pytest.raises(error, match=match):
        Lsuv().calibrate_(model, batches)
    assert differing(before, state(model)) == set()


@pytest.mark.parametrize("settings", [{"tolerance": 0}, {"tolerance": 1.5}, {"iterations": 0}])
def test_lsuv_refuses_settings(settings):
    with pytest.raises(ValueError, match=f"{next(iter(settings))} of Lsuv"):
        Lsuv(**settings)


# --- with a plan -----------------------------------------------------------------------------------------------------


def loader(shuffle=True, **options):
    return DataLoader(TensorDataset(torch.randn(32, 16), torch.zeros(32)), batch_size=8, shuffle=shuffle, **options)


@pytest.mark.parametrize("generator", [None, torch.Generator()])
def test_the_order_of_the_data_is_not_touched(generator):
    data = loader(generator=generator)
    torch.manual_seed(3)
    if generator is not None:
        generator.manual_seed(3)
    expected = [x for x, _ in data]
    model = mlp()
    seen = []
    torch.manual_seed(3)
    if generator is not None:
        generator.manual_seed(3)
    apply_calibrated_(
        make_plan(model, "orthogonal", seed=0), model, Lsuv(), data, progress=lambda *args: seen.append(args)
    )
    assert all(torch.equal(a, b) for a, b in zip(expected, [x for x, _ in data], strict=True))
    assert seen == [("0", 1, 4), ("2", 2, 4), ("4", 3, 4), ("6", 4, 4)]


def test_only_what_the_plan_initializes_is_calibrated_and_the_report_says_so():
    model = mlp()
    kept = model[2].weight.clone()
    plan = make_plan(model, Lsuv().start, rules={"2.weight": None}, seed=0)
    report, done = apply_calibrated_(plan, model, Lsuv(), loader())
    assert torch.equal(model[2].weight, kept)
    assert {one.parameter: one.why for one in done.layers}["2.weight"] == "kept: not to be calibrated"
    entries = {entry.name: entry for entry in report.entries}
    assert "; Lsuv: output variance" in entries["0.weight"].why
    assert entries["0.weight"].achieved_std == pytest.approx(
        float(model[0].weight.detach().std(correction=0)), rel=1e-5
    )
    assert "Lsuv" not in entries["0.bias"].why


def test_a_failing_calibration_takes_the_plan_back():
    model = mlp()
    before = state(model)
    with pytest.raises(ValueError, match="batches is empty"):
        apply_calibrated_(make_plan(model, "orthogonal", seed=0), model, Lsuv(), [])
    assert differing(before, state(model)) == set()


@pytest.mark.parametrize("kind", [Lsuv, Krahenbuhl, DenoisingAutoencoders, Rbm])
def test_a_start_that_is_no_initializer_is_refused_at_once(kind):
    with pytest.raises(ValueError, match="initializer must be one of the names"):
        kind(initializer="nope")


@pytest.mark.parametrize("calibration", ["lsuv", Krahenbuhl(rounds=0), "auto"])
@pytest.mark.parametrize("head", ["zeros", Normal(std=1e-3)])
def test_what_a_rule_gives_to_a_layer_is_not_overruled(calibration, head):
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))
    alone = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    calibrate(model, calibration, [x], rules={"2.weight": head}, seed=0)
    initialize(alone, "he_normal", rules={"2.weight": head}, seed=0)
    assert torch.equal(model[2].weight, alone[2].weight)
    assert model[0](x).var(correction=0).item() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("width", [67, 4096])
def test_what_rounding_alone_tells_apart_is_constant(width):
    """A head of one unit on equal samples: a factor for its rounding would be ten million."""
    x = torch.full((33, width), 0.3)
    for seed in range(5):
        model = nn.Sequential(nn.Linear(width, 1))
        report = initialize(model, Auto(batch=x), seed=seed)
        assert model(x).abs().max() < 10
        assert "kept" not in report.entries[0].why
        with pytest.raises(ValueError, match="layer 0: its output is constant over the batch"):
            calibrate(model, "lsuv", [x], seed=seed)
