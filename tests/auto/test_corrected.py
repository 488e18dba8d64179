"""`auto` with a batch corrects its weights on it, up to what no weights can give back; and what it refuses."""

import math

import pytest
import torch
from chains import decades, mlp, why
from torch import nn

from lightning_init import calibrate, diagnose, initialize
from lightning_init.auto import Auto
from lightning_init.auto.theory import setting
from lightning_init.initializers import VarianceScaling


def test_a_correction_sets_the_planned_variances():
    layers = [part for _ in range(6) for part in (nn.Conv2d(8, 8, 3, padding=1), nn.Tanh())]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    x = torch.randn(8, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    initialize(model, "auto", seed=0)
    assert abs(decades(model, x)[0]) > 1  # averaging takes it
    report = calibrate(model, "auto", [x], seed=0)
    planned = setting("tanh", 6).q  # the pool links the last layer, too, but leaves no seventh nonlinearity
    variances = [layer.activation_variance for layer in diagnose(model, x).profile.spine]
    assert variances == pytest.approx([variances[0]] * 7, rel=0.02)
    assert variances[0] == pytest.approx(planned, rel=0.2)
    assert "Auto: output variance" in why(report, "14.weight")
    calibrated = [parameter.clone() for parameter in model.parameters()]
    assert initialize(model, Auto(batch=x), seed=0).to_dict() == report.to_dict()
    assert all(map(torch.equal, model.parameters(), calibrated))


def plain_cnn():
    layers = [part for i in range(20) for part in (nn.Conv2d(8 if i else 3, 8, 3, padding=1), nn.ReLU())]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)), torch.randn(8, 3, 16, 16)


def encoder(norm_first):
    layer = nn.TransformerEncoderLayer(64, 4, 256, batch_first=True, norm_first=norm_first)
    return nn.TransformerEncoder(layer, 6, enable_nested_tensor=False), torch.randn(4, 32, 64)


@pytest.mark.parametrize("made", [plain_cnn, lambda: encoder(True), lambda: encoder(False)])
def test_with_a_batch_signals_survive_averages_too(made):
    torch.manual_seed(0)
    model, x = made()
    initialize(model, Auto(batch=x, correct=False), seed=0)
    assert abs(decades(model, x)[0]) > 0.5
    initialize(model, Auto(batch=x), seed=0)
    forward, backward = decades(model, x)
    assert abs(forward) < 0.5
    assert abs(backward) < 1.0


@pytest.mark.parametrize("gain", [0.1, 3.0])
def test_what_an_average_of_equal_values_takes_no_weights_give_back(gain):
    """Forward minus backward is log10(1 + (n - 1) c), whatever the scale of the weights behind it: docs/auto.md."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(64, 256, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 256))
    shared, own = torch.randn(64, 64, 1, 1), torch.randn(64, 64, 7, 7)
    for c in (0.0, 0.5, 1.0):
        x = math.sqrt(c) * shared + math.sqrt(1 - c) * own
        initialize(model, "lecun_normal", rules={"3.weight": VarianceScaling(gain, "fan_in", "normal")}, seed=0)
        forward, backward = decades(model, x)
        assert forward - backward == pytest.approx(math.log10(1 + 48 * c), abs=0.1)


def test_rules_come_first_and_auto_is_none():
    model = mlp(nn.ReLU, 6)
    report = initialize(model, "auto", rules={"10.*": "zeros"}, seed=0)
    assert "rule" in why(report, "10.weight")
    with pytest.raises(ValueError, match="auto looks at the whole model: make it the initializer"):
        initialize(model, "he_normal", rules={"0.*": "auto"})
    with pytest.raises(ValueError, match="needs data and the whole model"):
        initialize(model, Auto(correct=True))


def test_what_is_refused_says_what_to_do():
    with pytest.raises(ValueError, match=r"InitCallback\(Auto\(correct=True\)\)"):
        initialize(nn.Linear(2, 2), Auto(correct=True))
    with pytest.raises(TypeError, match="correct of Auto must be True, False or None, got 'x'"):
        Auto(correct="x")
    with pytest.raises(TypeError, match="batches must be an iterable of batches, got one NoneType"):
        calibrate(nn.Linear(2, 2), "auto", None)

    class Fails(nn.Module):
        def forward(self, x):
            raise RuntimeError("no")

    with pytest.warns(UserWarning, match="give a batch that its forward takes"):
        initialize(Fails(), Auto(batch=torch.ones(2), correct=False))
    with pytest.raises(ValueError, match="the forward pass fails in layer Fails"), pytest.warns(match="cannot follow"):
        initialize(Fails(), Auto(batch=torch.ones(2)))
