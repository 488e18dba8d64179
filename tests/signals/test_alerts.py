"""Each thing that can go wrong raises its own alert, once; a healthy network raises none."""

import itertools
import math

import pytest
import torch
from torch import nn

from lightning_init.signals.alerts import Watch
from lightning_init.signals.probe import Probe


def train(net, steps=6, x=None, lr=0.01, trained=None, frozen=()):
    """Train `net` on noise; return the alerts."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 16, generator=generator) if x is None else x
    y = torch.randint(3, (len(x),), generator=generator)
    optimizer = torch.optim.SGD(trained if trained is not None else net.parameters(), lr)
    probe = Probe(net)
    watch = Watch(probe.layers)
    alerts = []
    with probe:
        for step in range(steps):
            probe.open()
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x), y).backward()
            probe.before_update()
            if step == 0:
                trained = {p for group in optimizer.param_groups for p in group["params"]}
                alerts += watch.inspect(0) + watch.untrained(0, trained)
            optimizer.step()
            alerts += watch.check(step, probe.close().values())
    return alerts


def mlp(act=nn.ReLU, depth=4, width=64, std=None, constant=None):
    widths = [16, *[width] * depth, 3]
    layers = []
    for a, b in itertools.pairwise(widths):
        layers += [nn.Linear(a, b), act()]
    net = nn.Sequential(*layers[:-1])
    for module in net.modules():
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
            nn.init.kaiming_normal_(module.weight)
            if std is not None:
                nn.init.normal_(module.weight, std=std)
            if constant is not None:
                nn.init.constant_(module.weight, constant)
    return net


def kinds(alerts):
    return {alert.kind for alert in alerts}


@pytest.mark.parametrize(
    "net",
    [
        lambda: mlp(),
        lambda: mlp(nn.Tanh),
        lambda: mlp(nn.Sigmoid, depth=2),
        lambda: nn.Sequential(nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.LayerNorm(32), nn.Linear(32, 3)),
    ],
)
def test_a_healthy_network_raises_none(net):
    assert train(net()) == []


def test_a_head_of_zeros_is_healthy():
    """Its gradients differ from unit to unit, so it learns (and is a usual choice)."""
    net = mlp()
    nn.init.zeros_(net[-1].weight)
    assert train(net) == []


@pytest.mark.parametrize("constant", [0.0, 0.1])
def test_constant_weights_are_symmetric(constant):
    alerts = [alert for alert in train(mlp(constant=constant)) if alert.kind == "symmetric"]
    assert {"2", "4", "6"} <= {alert.layer for alert in alerts}
    assert all(alert.step == 0 and "he_normal" in alert.message for alert in alerts)


def test_small_weights_vanish_and_the_factor_mends_it():
    alerts = [alert for alert in train(mlp(depth=10, std=0.01)) if alert.kind == "vanishing"]
    first = alerts[0]
    assert first.step == 0
    assert "activation variance vanishes" in first.message
    factor = float(first.message.split("about ")[1].split(" times")[0])
    assert factor == pytest.approx(math.sqrt(2 / 64) / 0.01, rel=0.3)  # he_normal's std over ours


def test_large_weights_explode():
    alerts = [alert for alert in train(mlp(depth=10, std=1.0), lr=0.0) if alert.kind == "exploding"]
    assert "activation variance explodes" in alerts[0].message


def test_large_weights_saturate():
    assert "saturated" in kinds(train(mlp(nn.Tanh, std=2.0), lr=0.0))
    assert "saturated" in kinds(train(mlp(nn.Sigmoid, std=20.0), lr=0.0))


def test_dead_units_need_three_points_in_a_row():
    net = mlp()
    nn.init.constant_(net[2].bias, -100.0)
    assert "dead" not in kinds(train(net, steps=2, lr=0.0))
    assert "4" in {alert.layer for alert in train(net, steps=3, lr=0.0) if alert.kind == "dead"}


def test_what_is_not_finite_is_named():
    net = mlp()
    with torch.no_grad():
        net[4].weight[0, 0] = math.nan
    alerts = [alert for alert in train(net, steps=2) if alert.kind == "non-finite"]
    assert alerts[0].layer in {"0", "2", "4"}
    assert len({alert.layer for alert in alerts}) == len(alerts)  # once per layer


def test_gradients_that_overflow_while_amp_looks_for_its_scale_are_no_alert():
    watch = Watch(Probe(mlp()).layers)
    values = {"gradient_norm/0": math.inf, "gradient_norm_total": math.inf}
    assert watch.check(0, values, scaled=True) == []
    assert len(watch.check(1, values)) == 2


def test_layers_without_an_optimizer_are_frozen_by_accident():
    net = mlp()
    alerts = train(net, trained=[p for name, p in net.named_parameters() if not name.startswith("4")])
    assert [(alert.kind, alert.layer) for alert in alerts] == [("frozen", "4")]
    net[4].requires_grad_(False)
    assert train(net) == []


def test_a_sudden_gradient_explodes():
    watch = Watch(Probe(mlp()).layers)
    for step in range(5):
        assert watch.check(step, {"gradient_norm_total": 1.0 + 0.1 * step}) == []
    assert [alert.kind for alert in watch.check(5, {"gradient_norm_total": 2e3})] == ["exploding"]
    assert watch.check(6, {"gradient_norm_total": 1e9}) == []


@pytest.mark.parametrize(
    ("kind", "silent", "told"),
    [
        ("vanishing", {"activation_variance/0": 1.0, "activation_variance/2": 1.1e-6}, {"activation_variance/2": 9e-7}),
        ("exploding", {"activation_variance/0": 2.0, "activation_variance/2": 1.9e6}, {"activation_variance/2": 2.1e6}),
        ("vanishing", {"gradient_norm/0": 1.1e-6, "gradient_norm/2": 1.0}, {"gradient_norm/0": 9e-7}),
    ],
)
def test_a_factor_of_a_million_between_layers_is_too_much(kind, silent, told):
    watch = Watch(Probe(mlp()).layers)
    assert watch.check(0, silent) == []
    assert [(alert.kind, alert.step) for alert in watch.check(1, {**silent, **told})] == [(kind, 1)]


@pytest.mark.parametrize(("jump", "kinds_told"), [(900.0, []), (1100.0, ["exploding"])])
def test_a_thousand_times_the_usual_gradient_is_too_much(jump, kinds_told):
    watch = Watch(Probe(mlp()).layers)
    for step in range(5):
        watch.check(step, {"gradient_norm_total": 1.0})
    assert [alert.kind for alert in watch.check(5, {"gradient_norm_total": jump})] == kinds_told
