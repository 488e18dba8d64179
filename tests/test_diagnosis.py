"""diagnose: planted illnesses are called by their name, and the model is left as it was."""

import copy
import json
import random
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models import get_model

from examples import diagnose as example
from lightning_init import calibrate, initialize
from lightning_init.diagnosis import diagnose


def mlp(nonlinearity=nn.ReLU, depth=50, width=96):
    net = nn.Sequential(nn.Linear(32, width))
    for _ in range(depth - 1):
        net.extend([nonlinearity(), nn.Linear(width, width)])
    return net


def batch(size=32):
    return torch.randn(size, 32)


def diagnosed(initializer, f=nn.ReLU, depth=50, **options):
    model = mlp(f, depth)
    initialize(model, initializer, seed=0, **options)
    return diagnose(model, batch())


@pytest.mark.parametrize(
    ("initializer", "nonlinearity", "options", "verdict", "directions"),
    [
        ("he_normal", nn.ReLU, {}, "healthy", []),
        ("orthogonal", nn.Tanh, {}, "healthy", []),
        ("lecun_normal", nn.SELU, {}, "healthy", []),
        ("xavier_normal", nn.ReLU, {}, "vanishing", ["forward", "backward"]),
        ("torch_default", nn.ReLU, {}, "vanishing", ["backward"]),
        ("small_random", nn.ReLU, {}, "vanishing", ["forward"]),
        ("large_random", nn.ReLU, {}, "exploding", ["forward"]),
        ("large_random", nn.Tanh, {}, "exploding", ["backward", "forward"]),
        ("xavier_normal", nn.Sigmoid, {}, "vanishing", ["backward"]),
        ("he_normal", nn.Tanh, {"nonlinearity": "tanh"}, "exploding", ["backward"]),  # 5/3 holds the forward one
        ("zeros", nn.ReLU, {}, "symmetric", [None]),
        ("zeros", nn.Tanh, {}, "symmetric", [None]),
        ("ones", nn.Tanh, {}, "symmetric", [None]),
    ],
)
def test_a_deep_network_is_called_what_it_is(initializer, nonlinearity, options, verdict, directions):
    found = diagnosed(initializer, nonlinearity, **options)
    assert found.verdict == verdict
    assert [finding.direction for finding in found.findings][: len(directions)] == directions
    assert all(
        finding.cure and finding.layer in {one.name for one in found.profile.layers} for finding in found.findings
    )


def test_the_slopes_are_those_of_theory():
    half = diagnosed("xavier_normal").profile  # Var[W] fan_in E[f'^2] = 1/2
    assert half.forward.slope == pytest.approx(np.log10(0.5), abs=0.03)
    assert half.backward.slope == pytest.approx(np.log10(0.5), abs=0.03)
    kept = diagnosed("he_normal").profile
    assert abs(kept.forward.slope) < 0.03
    assert abs(kept.backward.slope) < 0.03


def test_the_cure_cures():
    sick = diagnosed("xavier_normal").findings[0]
    assert 'initialize(model, "he_normal")' in sick.cure
    assert "fan_in 96" in sick.cure
    assert "0.144 keeps the variance behind relu" in sick.cure  # sqrt(2/96)
    tanh = diagnosed("small_random", nn.Tanh)
    assert 'initialize(model, "he_normal", nonlinearity="tanh")' in tanh.findings[0].cure
    five_thirds = diagnosed("he_normal", nn.Tanh, nonlinearity="tanh").findings[0].cure
    assert "the weights need std 1 / sqrt(fan_in) behind tanh" in five_thirds


def test_one_layer_that_is_off_is_named():
    model = mlp(depth=20)
    initialize(model, "he_normal", rules={"20.weight": "small_random"}, seed=0)
    with torch.no_grad():
        model[20].weight *= 0.05
    found = diagnose(model, batch())
    forward = found.findings[0]
    assert (forward.kind, forward.layer, forward.direction) == ("vanishing", "20", "forward")
    assert "weights of layer 20 have std 0.000499" in forward.cure


def test_dead_units():
    model = mlp(depth=5)
    initialize(model, "he_normal", seed=0)
    with torch.no_grad():
        model[4].bias -= 100.0
    found = diagnose(model, batch())
    assert found.verdict == "dead"
    assert {one.name for one in found.profile.layers if one.dead == 1.0} >= {"4", "5"}
    with torch.no_grad():
        model[4].bias += 100.0
    assert diagnose(model, batch()).verdict == "healthy"


def test_the_layer_that_dies_is_named_and_not_those_before_it():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 2)

        def forward(self, x):
            return self.c(self.b(self.a(x).relu()).relu())

    plain = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2))
    for model, killer, named, whose in (
        (plain, plain[2], "3", "the biases of the layer before it"),
        (functional := Functional(), functional.b, "b", "its biases"),
    ):
        nn.init.constant_(killer.bias, -100.0)
        found = diagnose(model, torch.randn(32, 16))
        assert (found.verdict, found.findings[0].layer) == ("dead", named)
        assert f"look at {whose}" in found.findings[0].cure


def test_a_cure_does_not_ask_for_more_of_what_there_is_too_much_of():
    saturated = nn.Sequential(nn.Linear(16, 64), nn.Hardtanh(), nn.Linear(64, 2))
    found = diagnose(saturated, 10 * torch.randn(32, 16, generator=torch.Generator().manual_seed(0)))
    assert found.verdict == "saturated"
    assert "would do" not in found.findings[0].cure
    small = diagnose(nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 10)), 1e-4 * torch.randn(32, 16))
    assert small.verdict == "exploding"
    assert "no weight is too large: the biases make most of it" in small.findings[0].cure


class Experts(nn.Module):
    """Of four experts, a sample sees one."""

    def __init__(self):
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(16, 16) for _ in range(4))

    def forward(self, x):
        return torch.cat([one(x[i : i + 1]) for i, one in enumerate(self.experts)])


def test_an_expert_that_gets_no_sample_is_not_dead():
    model = Experts()
    assert diagnose(model, torch.randn(2, 16)).verdict == "healthy"
    for calibration in ("lsuv", "auto"):
        report = calibrate(model, calibration, [torch.randn(2, 16)], seed=0)
        assert ["by a factor" in entry.why for entry in report.entries][::2] == [True, True, False, False]


def test_saturated_units():
    model = mlp(nn.Tanh, depth=3)
    initialize(model, "xavier_normal", seed=0)
    with torch.no_grad():
        model[2].weight *= 15
    found = diagnose(model, batch())
    finding = next(one for one in found.findings if one.kind == "saturated")
    assert finding.layer == "3"
    assert "now 1.5, 0.1 would do" in finding.cure


def test_a_head_that_starts_at_zero_is_no_illness():
    model = mlp(depth=5)
    initialize(model, "he_normal", rules={"8.weight": "zeros"}, seed=0)
    found = diagnose(model, batch())
    assert found.verdict == "healthy"
    assert found.notes == ("8 starts at zero, so what stands before it gets its first gradient at step 2",)
    middle = mlp(depth=5)
    initialize(middle, "he_normal", rules={"4.weight": "zeros"}, seed=0)
    found = diagnose(middle, batch())
    assert (found.verdict, found.findings[0].layer) == ("symmetric", "4")  # relu'(0) = 0: nothing ever gets through


@pytest.mark.parametrize("name", ["mobilenet_v2", "googlenet"])
def test_networks_with_batch_normalization_that_train_are_healthy(name):
    model = get_model(name, weights=None, num_classes=10, **({"init_weights": False} if name == "googlenet" else {}))
    initialize(model, "he_normal", seed=0)
    assert diagnose(model, torch.randn(4, 3, 64, 64)).verdict == "healthy"


def test_not_a_number():
    class Root(nn.Module):
        def forward(self, x):
            return (x - 10).sqrt()

    found = diagnose(nn.Sequential(nn.Linear(32, 8), nn.Sequential(Root(), nn.Linear(8, 2))), batch())
    assert (found.verdict, found.findings[0].layer) == ("exploding", "1.1")
    assert "not finite" in str(found)


def state(model):
    return (
        [p.detach().clone() for p in model.parameters()],
        [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        [b.detach().clone() for b in model.buffers()],
        [module.training for module in model.modules()],
        [(dict(m._forward_hooks), dict(m._forward_pre_hooks), dict(m._backward_hooks)) for m in model.modules()],
        torch.get_rng_state(),
        random.getstate(),
        np.random.get_state()[1].tolist(),
        torch.is_grad_enabled(),
    )


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    return len(a) == len(b) and all(map(same, a, b)) if isinstance(a, (list, tuple)) else a == b


class Restless(nn.Module):
    """Draws from every stream, fails when told to."""

    def __init__(self, fails=False):
        super().__init__()
        self.fails = fails
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x):
        self.count += 1
        random.random()
        np.random.rand()
        if self.fails:
            raise RuntimeError("out of order")
        return x + torch.rand(())


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("train", [False, True])
def test_the_model_is_left_as_it_was(fails, train):
    model = nn.Sequential(
        nn.Linear(32, 8), nn.BatchNorm1d(8), nn.ReLU(inplace=True), nn.Dropout(), Restless(fails), nn.Linear(8, 3)
    ).train(train)
    model[0].register_forward_hook(lambda *_: None)
    model(batch()).sum().backward() if not fails else None
    model[1].eval()
    pair = (batch(), torch.zeros(32, dtype=torch.long))
    kept = copy.deepcopy(pair)
    before = state(model)
    if fails:
        with pytest.raises(ValueError, match=r"fails in layer 4 \(Restless\): RuntimeError: out of order"):
            diagnose(model, pair, F.cross_entropy)
    else:
        diagnose(model, pair, F.cross_entropy)
    assert same(state(model), before)
    assert same(pair, kept)


def test_it_says_the_same_every_time_and_inside_no_grad():
    model = nn.Sequential(nn.Linear(32, 8), nn.Dropout(), nn.Linear(8, 3))
    x = batch()
    first = diagnose(model, x).to_dict()
    torch.manual_seed(0)
    with torch.no_grad():
        torch.manual_seed(0)
        second = diagnose(model, x).to_dict()
    torch.manual_seed(0)
    assert diagnose(model, x).to_dict() == second
    assert first.keys() == second.keys()


def test_it_is_no_different_inside_inference_mode():
    model, x = mlp(depth=3), batch()
    outside = diagnose(model, x).to_dict()
    with torch.inference_mode():
        assert diagnose(model, x).to_dict() == outside
        assert diagnose(model, x.clone()).to_dict() == outside


def test_batches_of_every_form():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(32, 4)

        def forward(self, x, scale=1.0):
            return {"logits": self.net(x) * scale}

    x, y = batch(), torch.zeros(32, dtype=torch.long)
    loss = lambda output, target: F.cross_entropy(output["logits"], target)
    for form in ((x, y), [x, y], {"x": x, "labels": y}):
        found = diagnose(Two(), form, loss)
        assert found.profile.loss is not None
        assert found.verdict == "healthy"
    assert diagnose(Two(), x, lambda output: output["logits"].mean()).verdict == "healthy"
    assert diagnose(Two(), {"x": x}).profile.loss is None


@pytest.mark.parametrize(
    ("form", "loss", "error", "match"),
    [
        ("text", None, TypeError, "batch must be a tensor, a tuple or list .*, or a dict, got str"),
        ((), None, ValueError, "batch is empty"),
        ({}, None, ValueError, "batch is empty"),
        (torch.full((4, 32), torch.nan), None, ValueError, "batch must be finite, but 128 of the 128 values"),
        (torch.ones(0, 32), None, ValueError, r"batch holds an empty tensor of shape \(0, 32\)"),
        (torch.ones(4, 31), None, ValueError, r"forward pass fails in layer 0 \(Linear, weight 96x32\): RuntimeError"),
        (torch.ones(4, 32), F.mse_loss, ValueError, "batch holds no target: give"),
        (torch.ones(4, 32), lambda o: o, ValueError, r"scalar tensor, got a tensor of shape \(4, 96\)"),
        (torch.ones(4, 32), lambda o: o.detach().sum(), ValueError, "depend on the parameters"),
        ((torch.ones(4, 32), torch.ones(3)), F.cross_entropy, ValueError, "the loss fails on the model's output"),
    ],
)
def test_what_is_refused(form, loss, error, match):
    with pytest.raises(error, match=match):
        diagnose(mlp(depth=2), form, loss)


def test_models_that_cannot_run_are_refused():
    with pytest.raises(ValueError, match=r"0.weight has no shape yet \(a lazy parameter\)"):
        diagnose(nn.Sequential(nn.LazyLinear(3)), batch())
    with pytest.raises(ValueError, match=r"0.weight is on the meta device"):
        diagnose(nn.Sequential(nn.Linear(32, 3, device="meta")), batch())
    broken = mlp(depth=2)
    broken[2].weight.data[0, 0] = torch.inf
    with pytest.raises(ValueError, match=r"2.weight holds values that are not finite"):
        diagnose(broken, batch())
    with pytest.raises(ValueError, match="no layer of Flatten ran"):
        diagnose(nn.Flatten(), batch())


def test_a_layer_that_never_runs_is_named():
    class Forgetful(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.forgotten = nn.Linear(32, 4), nn.Linear(32, 4)

        def forward(self, x):
            return self.used(x)

    assert "never ran in this forward pass: forgotten" in str(diagnose(Forgetful(), batch()))


class Between(nn.Module):
    """Two layers, and an operation on the signal between them."""

    def __init__(self, between):
        super().__init__()
        self.a, self.b, self.between = nn.Linear(32, 32), nn.Linear(32, 4), between

    def forward(self, x):
        return self.b(self.between(self.a(x)))


def test_a_layer_that_no_gradient_comes_back_to_is_named():
    found = diagnose(Between(torch.detach), batch())
    assert found.notes == (
        "no gradient comes back from the first output to: a (detached on the way, or used elsewhere)",
    )
    assert diagnose(Between(torch.relu), batch()).notes == ()


@pytest.mark.parametrize(
    ("model", "x", "layer"), [(Between(torch.zeros_like), batch(), "b"), (mlp(), 0 * batch(), "0")]
)
def test_layers_that_get_nothing_but_zeros_are_dead(model, x, layer):
    initialize(model, "he_normal", seed=0)
    (finding,) = diagnose(model, x).findings
    assert (finding.kind, finding.layer) == ("dead", layer)
    assert "nothing but zeros enters" in finding.text


def test_an_operation_that_makes_nan_is_blamed_and_not_the_weights():
    model = Between(torch.log)
    initialize(model, "lecun_normal", seed=0)
    (finding,) = diagnose(model, batch()).findings
    assert (finding.kind, finding.layer) == ("exploding", "b")
    assert "a logarithm" in finding.cure


def test_no_std_is_said_to_be_right_behind_what_no_gain_is_known_of():
    gates = nn.Sequential(*[part for _ in range(12) for part in (nn.Linear(32, 64), nn.GLU())])
    initialize(gates, "lecun_normal", seed=0)
    found = diagnose(gates, batch())
    assert found.verdict == "vanishing"
    assert not any("None" in finding.cure or "every weight" in finding.cure for finding in found.findings)


def test_what_the_next_operation_makes_large_again_has_not_vanished():
    class Sine(nn.Module):
        def forward(self, x):
            return torch.sin(30 * x)

    model = mlp(Sine, depth=6)
    initialize(model, "auto", seed=0)
    found = diagnose(model, batch())
    assert found.profile.spine[0].step < -3
    assert found.verdict == "healthy"
    for index in range(1, len(model), 2):
        model[index] = nn.Identity()
    assert diagnose(model, batch()).verdict == "vanishing"


def test_a_frozen_network_has_a_forward_profile():
    found = diagnose(mlp(depth=3).requires_grad_(requires_grad=False), batch())
    assert found.profile.backward is None
    assert found.profile.forward is not None
    assert any("all are frozen" in note for note in found.notes)


def test_the_table_and_the_dictionary():
    found = diagnosed("xavier_normal", depth=4)
    lines = str(found).splitlines()
    assert lines[0].split()[:2] == ["layer", "kind"]
    assert [line.split()[0] for line in lines[1:8]] == [one.name for one in found.profile.layers]
    assert lines[9].startswith("HEALTHY: over 4 layers with weights, activations change by -0.")
    plain = json.loads(json.dumps(found.to_dict()))
    assert plain["layers"][2]["front"] == "relu"
    assert plain["slopes"]["forward"] == found.profile.forward.slope


def test_the_plot_shows_both_directions():
    figure = diagnosed("xavier_normal").plot()
    above, below = figure.axes
    assert len(above.lines) == 2
    assert len(below.lines[0].get_xdata()) == 50
    assert above.get_yscale() == below.get_yscale() == "log"
    figure.canvas.draw()


def test_without_matplotlib_the_plot_says_what_is_missing(monkeypatch):
    found = diagnosed("he_normal", depth=2)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        found.plot()


def test_a_compiled_model_is_seen_layer_by_layer():
    model = mlp(depth=3)
    compiled = torch.compile(model, backend="eager")
    compiled(batch())
    assert [one.name for one in diagnose(compiled, batch()).profile.spine] == ["0", "2", "4"]


@pytest.mark.parametrize(
    ("initializer", "verdict"), [("small_random", "VANISHING at layer "), ("he_normal", "HEALTHY")]
)
def test_the_example_prints_and_draws(initializer, verdict, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    example.main([f"initializer={initializer}", "model=deep_mlp", "model.depth=8", f"plot={tmp_path / 'profile.png'}"])
    assert f"\n{verdict}" in capsys.readouterr().out
    assert (tmp_path / "profile.png").stat().st_size > 0


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("initializer=he_nromal", "did you mean he_normal"),
        ("model.depth=0", "model.depth=0"),
        ("init.frozen=x", "frozen"),
    ],
)
def test_the_example_says_mistakes_in_one_sentence(override, message):
    with pytest.raises(SystemExit, match=message):
        example.main(["initializer=normal", override] if "initializer" not in override else [override])
