"""Data-dependent initialization of Kraehenbuehl et al. 2016: within layers, and between them."""

import math

import pytest
import torch
from torch import nn

from lightning_init import initialize
from lightning_init._running import call_of
from lightning_init.calibration import Krahenbuhl
from lightning_init.calibration.base import _units
from lightning_init.calibration.krahenbuhl import relative_rates
from tests.calibration.models import differing, mlp, state


@pytest.mark.parametrize("settings", [{"shift": math.nan}, {"rounds": -1}, {"damping": 0.0}])
def test_krahenbuhl_refuses_settings(settings):
    with pytest.raises(ValueError, match=f"{next(iter(settings))} of Krahenbuhl"):
        Krahenbuhl(**settings)


def cnn():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.ReLU(),
        nn.ConvTranspose2d(8, 12, 2, 2, groups=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.LazyLinear(6),
    )


def test_within_layers_every_channel_has_mean_zero_and_unit_variance():
    model, x = cnn(), torch.rand(32, 3, 6, 6)
    model(x)
    initialize(model, "large_random", seed=0)
    Krahenbuhl(rounds=0).calibrate_(model, [x])
    y = x
    for module in model:
        y = module(y)
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            rows = y.detach().transpose(0, 1).flatten(1)
            torch.testing.assert_close(rows.mean(1), torch.zeros(len(rows)), atol=1e-4, rtol=0)
            torch.testing.assert_close(rows.std(1, correction=0), torch.ones(len(rows)), atol=1e-3, rtol=0)
    shifted = Krahenbuhl(shift=0.5, rounds=0)
    shifted.calibrate_(model, [x])
    assert model(x).detach().mean(0).sub(0.5).abs().max() < 1e-4


def test_between_layers_all_learn_at_the_same_rate_and_the_function_stays():
    x = torch.randn(64, 16)
    within, both = mlp(depth=5), mlp(depth=5)
    for model in (within, both):
        initialize(model, "large_random", seed=0)
        with torch.no_grad():
            model[4].weight *= 7  # within repairs that
    Krahenbuhl(rounds=0).calibrate_(within, [x])
    Krahenbuhl().calibrate_(both, [x])
    torch.testing.assert_close(within(x), both(x), rtol=1e-3, atol=1e-4)

    def spread(model):
        units = _units(model, call_of(model, x), None)
        rates = relative_rates(model, call_of(model, x), units, torch.Generator().manual_seed(9))
        return max(rates) / min(rates)

    assert spread(both) < 1 + (spread(within) - 1) / 3


def test_between_layers_is_refused_where_it_would_change_the_function():
    model, x = mlp(nn.Tanh), torch.randn(64, 16)
    initialize(model, "large_random", seed=0)
    before = state(model)
    with pytest.raises(ValueError, match="only where each layer feeds the next through ReLU-like nonlinearities"):
        Krahenbuhl().calibrate_(model, [x])
    assert differing(before, state(model)) == set()
    Krahenbuhl(rounds=0).calibrate_(model, [x])
