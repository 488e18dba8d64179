"""Planted illnesses are called by their name, the layer and the cure beside it; what is healthy is called healthy."""

import numpy as np
import pytest
import torch
from patients import batch, diagnosed, mlp
from torch import nn
from torchvision.models import get_model

from lightning_init import calibrate, initialize
from lightning_init.diagnosis import diagnose


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


class Between(nn.Module):
    """Two layers, and an operation on the signal between them."""

    def __init__(self, between):
        super().__init__()
        self.a, self.b, self.between = nn.Linear(32, 32), nn.Linear(32, 4), between

    def forward(self, x):
        return self.b(self.between(self.a(x)))


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


def test_a_layer_that_no_gradient_comes_back_to_is_named():
    found = diagnose(Between(torch.detach), batch())
    assert found.notes == (
        "no gradient comes back from the first output to: a (detached on the way, or used elsewhere)",
    )
    assert diagnose(Between(torch.relu), batch()).notes == ()


def test_a_layer_that_never_runs_is_named():
    class Forgetful(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.forgotten = nn.Linear(32, 4), nn.Linear(32, 4)

        def forward(self, x):
            return self.used(x)

    assert "never ran in this forward pass: forgotten" in str(diagnose(Forgetful(), batch()))


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
