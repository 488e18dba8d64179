"""Each thing that can go wrong raises its own alert, once; a healthy network raises none."""

import copy
import itertools
import math

import pytest
import torch
from torch import nn

from lightning_init.signals.alerts import Watch
from lightning_init.signals.catalogue import Wanted
from lightning_init.signals.probe import Probe


def train(net, steps=6, x=None, lr=0.01, trained=None, loss=nn.functional.cross_entropy, wanted=None, warm=0):
    """Train `net` on noise, the learning rate rising over `warm` steps; return the alerts."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 16, generator=generator) if x is None else x
    y = torch.randint(3, (len(x),), generator=generator)
    optimizer = torch.optim.SGD(trained if trained is not None else net.parameters(), lr)
    probe = Probe(net, wanted)
    watch = Watch(probe.layers)
    trained = {p for group in optimizer.param_groups for p in group["params"]}
    alerts = []
    with probe:
        for step in range(steps):
            probe.open()
            optimizer.zero_grad()
            loss(net(x), y).backward()
            probe.before_update()
            if watch.more:
                alerts += watch.inspect(step)
            if step == 0:
                alerts += watch.untrained(0, trained)
            for group in optimizer.param_groups:
                group["lr"] = lr * min(1.0, (step + 1) / (warm or 1))
            optimizer.step()
            reading = probe.close()
            alerts += watch.check(step, reading.values(), lone=reading.lone)
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


class Modulated(nn.Module):
    """A branch whose gates begin at zero, in front of a head that does (as DiT's: Peebles & Xie 2023)."""

    def __init__(self):
        super().__init__()
        self.stem, self.gates, self.branch, self.head = (nn.Linear(16, n) for n in (16, 32, 16, 3))
        for layer in (self.gates, self.head):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x):
        h = self.stem(x)
        shift, gate = self.gates(x.sin()).chunk(2, -1)
        return self.head(h + gate * self.branch(h + shift).relu())


@pytest.mark.parametrize("warm", [0, 1_000_000])
def test_gates_and_heads_of_zeros_are_healthy_also_while_the_learning_rate_warms_up(warm):
    assert train(Modulated(), warm=warm, steps=8, wanted=Wanted(updates=("ratio",))) == []


def test_a_layer_that_rose_from_zero_is_watched_like_any_other():
    watch = Watch(Probe(mlp()).layers)
    told = []
    for step, gradient in enumerate((0.0, 1e-9, 1e-3, 1e-9)):
        told += watch.check(step, {"gradient_norm/0": gradient, "gradient_norm/2": 1.0})
    assert [(alert.kind, alert.layer, alert.step) for alert in told] == [("vanishing", "0", 3)]


def test_copies_behind_a_random_head_that_never_get_a_gradient_are_symmetric_after_three_points():
    net = mlp()
    for layer in (net[4], net[6]):
        nn.init.zeros_(layer.weight)
    alerts = [alert for alert in train(net) if alert.kind == "symmetric"]
    assert [(alert.layer, alert.step) for alert in alerts] == [("4", 2), ("6", 2)]


def test_a_single_number_is_not_dead():
    """A batch of one with one output; and a model that owns a parameter and returns its loss."""

    class Loss(nn.Module):
        def __init__(self):
            super().__init__()
            self.position, self.net = nn.Parameter(torch.ones(1, 16)), mlp()

        def forward(self, x):
            return self.net(x + self.position).square().mean()

    assert train(nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 1)), x=torch.ones(1, 16), loss=_mean) == []
    assert train(Loss(), loss=_mean) == []


def _mean(output, _):
    return output.mean()


def test_a_normalization_between_two_layers_sets_their_scales_apart():
    def net(norm):
        return nn.Sequential(nn.Linear(16, 32), norm, nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3))

    x = 1e5 * torch.randn(64, 16, generator=torch.Generator().manual_seed(1))
    assert train(net(nn.BatchNorm1d(32)), x=x, lr=1e-4) == []
    small = net(nn.BatchNorm1d(32))
    nn.init.normal_(small[3].weight, std=1e-9)
    nn.init.zeros_(small[3].bias)
    nn.init.normal_(small[5].weight, std=1e-9)
    nn.init.zeros_(small[5].bias)
    alerts = [alert for alert in train(small, steps=1) if "activation variance vanishes" in alert.message]
    assert [alert.layer for alert in alerts] == ["5"]  # below layer 3; that one comes fresh from a normalization


def test_sure_answers_are_not_saturated_but_sure_guesses_of_an_untrained_network_are():
    net = nn.Sequential(nn.Linear(16, 8), nn.Sigmoid(), nn.Linear(8, 1), nn.Sigmoid())
    watch = Watch(Probe(net).layers)
    sure = {"activation_variance/1": 0.01, "activation_variance/3": 0.24}
    assert watch.check(50, sure) == []
    assert [alert.layer for alert in Watch(Probe(net).layers).check(0, sure)] == ["3"]
    assert [alert.layer for alert in watch.check(51, {**sure, "activation_variance/1": 0.24})] == ["1"]


def test_copies_that_get_no_gradient_are_not_frozen_by_accident():
    class Bootstrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.online, self.target = mlp(), mlp()

        def forward(self, x):
            with torch.no_grad():
                target = self.target(x)
            return self.online(x) + target

    net = Bootstrapped()
    assert train(net, trained=net.online.parameters()) == []


def test_a_single_parameter_that_the_optimizer_lacks_is_named():
    net = mlp()
    alerts = train(net, trained=[p for name, p in net.named_parameters() if name != "4.weight"])
    assert [(alert.kind, alert.layer) for alert in alerts] == [("frozen", "4")]
    assert "accident: weight gets" in alerts[0].message


def test_lazy_modules_are_watched_from_when_they_have_a_shape():
    class Constant(nn.LazyLinear):
        def reset_parameters(self):
            if not self.has_uninitialized_params():
                nn.init.constant_(self.weight, 0.1)
                if self.bias is not None:
                    nn.init.zeros_(self.bias)  # materialized as whatever the memory held

    assert "symmetric" in kinds(train(nn.Sequential(Constant(16), nn.ReLU(), Constant(16), nn.ReLU(), Constant(3))))


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


def test_a_loss_that_is_content_is_not_dead_but_a_last_relu_may_be():
    living = {
        "activation_variance/0": 1.0,
        "activation_variance/2": 1.0,
        "gradient_norm/0": 1.0,
        "gradient_norm/2": 1.0,
    }
    still = {**living, "gradient_norm/0": 0.0, "gradient_norm/2": 0.0, "gradient_norm_total": 0.0}
    for began, last, told in ((True, 1.0, 0), (True, 0.0, 2), (False, 1.0, 2)):
        watch = Watch(Probe(mlp()).layers)
        points = [{**living, "gradient_norm_total": 1.4}] * began + [{**still, "activation_variance/7": last}] * 3
        assert sum(len(watch.check(step, point)) for step, point in enumerate(points)) == told


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


def test_a_calm_point_is_settled_in_few_steps_and_any_alert_is_not(monkeypatch):
    """The short way and the long one say the same of every point; without trouble the long one is not taken."""
    net = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    calm = {f"gradient_norm/{name}": 1.0 for name in "024"} | {f"activation_variance/{name}": 0.5 for name in "01234"}
    calm["gradient_norm_total"] = 3**0.5
    watch, kinds = Watch(Probe(net).layers), set()
    assert watch.check(0, calm) == []
    assert watch._is_calm(calm, calm["gradient_norm_total"])
    for tag, value in itertools.product(calm, (0.0, 1e-9, 1e9, math.inf, math.nan)):
        troubled = {**calm, tag: value}
        short, long = copy.deepcopy(watch), copy.deepcopy(watch)
        monkeypatch.setattr(long, "_is_calm", lambda *_: False)
        points = [troubled] * 3 + [calm] * 2
        said = [str(short.check(i, point)) for i, point in enumerate(points, 1)]
        assert said == [str(long.check(i, point)) for i, point in enumerate(points, 1)]
        kinds |= {alert.kind for i, point in enumerate(points, 1) for alert in copy.deepcopy(watch).check(i, point)}
    assert kinds == {"non-finite", "vanishing", "exploding", "saturated"}
