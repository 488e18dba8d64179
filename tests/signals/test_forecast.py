"""The forecast follows a forward that happens anyway: it says what `diagnose` says, and leaves no trace."""

import pytest
import torch
from torch import nn

from lightning_init import diagnose, initialize
from lightning_init.signals import forecast
from lightning_init.signals.forecast import Forecast, comparison, planned
from lightning_init.signals.layers import find_layers

X = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))


def net():
    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 4))
    initialize(model, "he_normal", seed=0)
    return model


def test_it_predicts_what_diagnose_predicts_and_close_to_what_is_measured():
    model = net()
    profile = {layer.name: layer for layer in diagnose(model, X).profile.spine}
    watched = Forecast(model)
    watched.start([X, "not a tensor"])
    model(X)
    found = watched.stop()
    assert found == {name: layer.predicted_variance for name, layer in profile.items()}
    for name, layer in profile.items():
        assert found[name] == pytest.approx(layer.activation_variance, rel=0.35)


def test_it_leaves_no_hooks_and_changes_nothing():
    model, plain = net(), net()
    watched = Forecast(model)
    torch.manual_seed(0)
    watched.start(X)
    y = model(X)
    watched.stop()
    assert watched.stop().keys() == {"0", "3", "5"}
    y.sum().backward()
    torch.manual_seed(0)
    z = plain(X)
    z.sum().backward()
    assert torch.equal(y, z)
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(model.parameters(), plain.parameters(), strict=True))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_what_theory_cannot_do_is_left_out_and_ends_no_training(monkeypatch):
    def fail(*_args):
        raise RuntimeError

    monkeypatch.setattr(forecast.Meter, "leave", fail)
    model = net()
    watched = Forecast(model)
    watched.start(X)
    assert model(X).shape == (64, 4)
    assert watched.stop() == {}


def test_what_is_planned_is_the_square_of_the_reports_target():
    model = nn.ModuleDict(
        {
            "a": nn.utils.parametrizations.weight_norm(nn.Linear(4, 8)),
            "b": nn.LSTM(4, 4),
            "c": nn.LayerNorm(4),
        }
    )
    found = planned(initialize(model, "normal", seed=0), find_layers(model))
    assert found == {
        "weight_variance/a": 1.0,
        "weight_variance/b.weight_ih_l0": 1.0,
        "weight_variance/b.weight_hh_l0": 1.0,
    }


def test_the_table_has_a_row_for_what_is_expected_in_the_order_of_what_is_measured():
    expected = {"activation_variance/b": 2.0, "weight_variance/a": 0.0}
    measured = {"weight_variance/a": 1.0, "weight_variance/c": 1.0, "activation_variance/b": 3.0}
    rows = comparison(expected, measured).splitlines()[2:]
    assert rows == ["| a | 0 | 1 | - | - | - | - |", "| b | - | - | - | 2 | 3 | 1.5 |"]
