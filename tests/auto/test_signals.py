"""What signals do in networks that `auto` initialized without a batch, or with one that it only looks at."""

import math

import pytest
import torch
from chains import Recurrent, decades, mlp, why
from torch import nn

from lightning_init import diagnose, initialize
from lightning_init.auto import Auto

TWELVE = (
    *("ReLU", "LeakyReLU", "ELU", "SELU", "GELU", "SiLU"),
    *("Mish", "Softplus", "Tanh", "Sigmoid", "Softsign", "Hardtanh"),
)


@pytest.mark.parametrize("depth", [10, 100])
@pytest.mark.parametrize("name", TWELVE)
def test_deep_chains_keep_signals_both_ways(name, depth):
    model, x = mlp(getattr(nn, name), depth), torch.randn(64, 32, generator=torch.Generator().manual_seed(0))
    initialize(model, Auto(batch=x, correct=False), seed=0)
    forward, backward = decades(model, x)
    assert abs(forward) < 0.5
    assert abs(backward) < 1.0


def test_the_bounds_would_not_hold_without_pairs_or_isometries():
    x = torch.randn(64, 32, generator=torch.Generator().manual_seed(0))
    for name in ("GELU", "Softplus", "Sigmoid"):
        model = mlp(getattr(nn, name), 100)
        initialize(model, "orthogonal", nonlinearity="auto", seed=0)
        assert max(map(abs, decades(model, x))) > 1


def test_a_network_of_pairs_is_an_isometry():
    model = mlp(nn.SiLU, 30)
    initialize(model, Auto(), bias="zeros", seed=0)
    x = torch.randn(4, 32)
    hidden = model[:-1](x)
    assert torch.allclose(model(2 * x), 2 * model(x), rtol=1e-3, atol=1e-5)
    assert torch.allclose(hidden[:, :32] - hidden[:, 32:], model[:-2](x)[:, :32], atol=1e-5)


def test_without_pairs_relu_scatters_by_the_root_of_five_times_depth_over_width():
    """The standard deviation of the logarithm, over networks; docs/auto.md says so."""
    depth, width, networks = 10, 100, 400
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(networks, width, 1, generator=generator)
    start = x.square().mean((1, 2))
    for _ in range(depth):
        x = torch.randn(networks, width, width, generator=generator) * math.sqrt(2 / width) @ x.relu()
    scatter = (x.square().mean((1, 2)) / start).log().std().item()
    assert scatter == pytest.approx(math.sqrt(5 * depth / width), rel=4 / math.sqrt(2 * networks))


@pytest.mark.parametrize("depth", [2, 4, 10])
def test_gradients_survive_sines_of_high_frequency(depth):
    class Sine(nn.Module):
        def forward(self, x):
            return torch.sin(30 * x)

    class Written(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(32 if i == 0 else 64, 64) for i in range(depth)])
            self.last = nn.Linear(64, 10)

        def forward(self, x):
            for layer in self.layers:
                x = torch.sin(30 * layer(x))
            return self.last(x)

    x = torch.randn(64, 32)
    for model in (mlp(Sine, depth + 1), Written()):
        initialize(model, "auto", seed=0)
        assert abs(decades(model, x)[1]) < 1.0
        initialize(model, "lecun_normal", nonlinearity="sin", seed=0)
        assert decades(model, x)[1] > 2.0 * depth


def test_gates_have_their_gain():
    def gates():
        return nn.Sequential(*[part for _ in range(10) for part in (nn.Linear(64, 128), nn.GLU())][:-1])

    x = torch.randn(64, 64)
    report = initialize(model := gates(), "auto", seed=0)
    assert why(report, "2.weight").startswith("Linear weight: behind a gate with sigmoid: gain 1.846")
    assert all(abs(one) < 1.0 for one in decades(model, x))
    initialize(model := gates(), "lecun_normal", seed=0)
    assert decades(model, x)[0] < -4.0


def pooling_cnn(depth=4):
    layers = [nn.Conv2d(3, 64, 3, padding=1), nn.ReLU()]
    for _ in range(depth):
        layers += [nn.MaxPool2d(2), nn.Conv2d(64, 64, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * (64 >> depth) ** 2, 400))


def test_with_images_max_pooling_is_taken_into_account():
    """Four seeds, whose drifts have a std of 0.12 decades: the mean within four standard errors of none."""
    images = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    smooth = 1 + 0.01 * images

    def drift(initializer, x):
        model, drifts = pooling_cnn(), []
        for seed in range(4):
            report = initialize(model, initializer, seed=seed)
            drifts.append(decades(model, x)[0])
        return sum(drifts) / 4, why(report, "3.weight")

    mean, reason = drift(Auto(batch=images), images)
    assert abs(mean) < 0.24
    assert "behind the largest of 4 values (mean square x 1.7" in reason
    mean, reason = drift(Auto(batch=smooth), smooth)
    assert abs(mean) < 0.24
    assert "largest" not in reason
    mean, reason = drift(Auto(), images)
    assert mean > 0.3
    assert "largest" not in reason


@pytest.mark.parametrize("width", [2, 3, 17, 65])
def test_the_odd_unit_takes_nothing_from_the_pairs(width):
    model, x = mlp(nn.ReLU, 100, width), torch.randn(64, 32, generator=torch.Generator().manual_seed(0))
    initialize(model, "auto", seed=0)
    assert max(map(abs, decades(model, x))) < 0.2


class Sign(nn.Module):
    def forward(self, x):
        return x.sign()


@pytest.mark.parametrize("made", [nn.Hardshrink, nn.Softshrink, lambda: nn.Threshold(0.5, 0.0), Sign, nn.Hardsigmoid])
def test_what_lets_nothing_small_through_or_has_no_slope_gets_what_keeps_its_variance(made):
    model, x = mlp(made, 8), torch.randn(64, 32, generator=torch.Generator().manual_seed(0))
    initialize(model, Auto(batch=x, correct=False), seed=0)
    variances = [layer.activation_variance for layer in diagnose(model, x).profile.spine]
    assert all(0.1 < one < 10 for one in variances)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_what_stands_behind_a_recurrent_layer_gets_its_variance_too(kind, layers):
    model, x = Recurrent(kind, layers), torch.randn(50, 16, 16, generator=torch.Generator().manual_seed(0))
    report = initialize(model, "auto", seed=0)
    assert f"behind {kind.__name__} (mean square" in why(report, "head.weight")
    assert 0.4 < model(x)[-1].var().item() < 2.5
