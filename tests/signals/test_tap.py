"""Small outputs wait until some of them are read in one call; that nobody can tell by the figures."""

import copy
import gc
import threading
import weakref

import pytest
import torch
from torch import nn

from lightning_init.signals import fast, tap
from lightning_init.signals.catalogue import Wanted
from lightning_init.signals.probe import Probe

WANTED = Wanted(weights=(), activations=("variance", "mean"), gradients=())


@pytest.fixture(autouse=True)
def kernel():
    fast.prepare()
    if fast._kernel is None:
        pytest.skip("Numba is not installed: pip install lightning-init[fast]")


class Net(nn.Module):
    """Linear layers, whose outputs `between` may change before the next one gets them."""

    def __init__(self, between, depth=5, width=6):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.between = between
        self.steps = 0
        self.seen = []

    def forward(self, x):
        self.steps += 1
        self.seen.append({})
        for index, layer in enumerate(self.layers):
            y = layer(x)
            self.seen[-1].setdefault(f"layers.{index}", []).append(y.detach().double().clone())
            x = self.between(self, y, x)
        return x


def in_place_once(net, y, _):
    """At the fourth step alone."""
    return torch.relu_(y) if net.steps == 4 else torch.relu(y)


class Weight(nn.Module):
    """Returns a view of its parameter, which an optimizer changes after the first point."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 6))

    def forward(self):
        return self.weight.view(36)


class Codes(nn.Module):
    """Returns whole numbers."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 6))

    def forward(self, x):
        return (x @ self.weight).argmax(1)


def unseen(net, y, _):
    with torch.no_grad():
        y.data.clamp_(-0.1, 0.1)  # no version tells of it
    return y


BETWEEN = {
    "nothing": lambda net, y, x: y,
    "relu": lambda net, y, x: torch.relu(y),
    "in-place relu": lambda net, y, x: torch.relu_(y),
    "in-place residual": lambda net, y, x: y.add_(x),
    "in-place on a view": lambda net, y, x: (y[:, :2].zero_(), y)[1],
    "in place, unseen": unseen,
}


def points(net, count=5, batch=7, probe=None):
    """The values of some points, and how many outputs waited at most."""
    values, most = [], 0
    with probe or Probe(net, WANTED) as probe:
        for step in range(count):
            probe.open()
            net(torch.randn(batch, 6, generator=torch.Generator().manual_seed(step)))
            most = max(most, len(probe._switch.waiting))
            probe.before_update()
            values.append(probe.close().values())
    return values, most


def expected(seen):
    values = {}
    for name, calls in seen.items():
        pooled = torch.cat([one.flatten() for one in calls])
        values[f"activation_variance/{name}"] = pooled.var(correction=0).item()
        values[f"activation_mean/{name}"] = pooled.mean().item()
    return values


@pytest.mark.parametrize("between", BETWEEN)
@pytest.mark.parametrize("depth", [5, 2 * tap._MANY + 3])
def test_figures_are_those_of_the_outputs_as_the_layers_gave_them(between, depth):
    torch.manual_seed(0)
    net = Net(BETWEEN[between], depth)
    values, most = points(net)
    for found, seen in zip(values, net.seen, strict=True):
        assert found == pytest.approx(expected(seen), rel=1e-4)
    assert (most > 0) == (between in ("nothing", "relu"))


def test_a_mutant_that_waits_from_the_start_is_wrong(monkeypatch):
    monkeypatch.setattr(fast, "version", lambda values: 0)
    monkeypatch.setattr(fast, "summary", lambda values: 0)
    net = Net(BETWEEN["in-place relu"])
    values, _ = points(net)
    assert values[-1] != pytest.approx(expected(net.seen[-1]), rel=1e-2)


def test_what_is_changed_once_has_no_value_at_that_step_and_is_read_at_once_from_then_on():
    net = Net(in_place_once)
    probe = Probe(net, WANTED)
    points(net, count=3, probe=probe)
    assert [tap.waits for _, tap in probe._taps] == [True] * 5
    with probe:
        probe.open()
        net(torch.randn(7, 6))
        probe.before_update()
        assert probe.close().values() == {}
        assert set(probe.silent) == {f"layers.{index}" for index in range(5)}
        assert "changed in place" in probe.silent["layers.0"]
    assert [tap.waits for _, tap in probe._taps] == [False] * 5
    later, most = points(net, count=2, probe=probe)
    assert later[-1] == pytest.approx(expected(net.seen[-1]), rel=1e-4, abs=1e-9)
    assert most == 0


def test_a_layer_waits_only_if_all_its_outputs_stay():
    """Of a shared layer, the second output is changed."""
    layer = nn.Linear(6, 6)

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.last, self.seen = layer, nn.Linear(6, 6), []

        def forward(self, x):
            first = self.layer(x)
            second = self.layer(first)
            last = self.last(torch.tanh(first))
            self.seen.append({"layer": [first.detach().clone(), second.detach().clone()], "last": [last.detach()]})
            return second.relu_() + last

    net = Twice()
    probe = Probe(net, WANTED)
    values, _ = points(net, probe=probe)
    for found, seen in zip(values, net.seen, strict=True):
        assert found == pytest.approx(expected(seen), rel=1e-4, abs=1e-6)
    assert {tap.name: tap.waits for _, tap in probe._taps} == {"layer": False, "last": True}


def test_nothing_is_held_beyond_the_point_and_no_more_than_some_within():
    outputs = []

    def note(net, y, x):
        outputs.append(weakref.ref(y))
        return torch.tanh(y)

    net = Net(note, depth=100)
    with Probe(net, WANTED) as probe:
        for _ in range(3):
            probe.open()
            with torch.no_grad():
                net(torch.ones(2, 6))
            gc.collect()
            assert sum(one() is not None for one in outputs) <= 2 * tap._MANY
            probe.before_update()
            probe.close()
            gc.collect()
            assert not any(one() is not None for one in outputs)


@pytest.mark.parametrize(
    ("kind", "batch"),
    [
        ("large", tap._SMALL // 6 + 1),
        ("bfloat16", 4),
        ("inference", 4),
    ],
)
def test_others_do_not_wait(kind, batch):
    net = Net(BETWEEN["relu"])
    probe = Probe(net, WANTED)
    net.to(torch.bfloat16 if kind == "bfloat16" else torch.float32)
    with probe, torch.inference_mode(kind == "inference"):
        for _ in range(3):
            probe.open()
            net(torch.randn(batch, 6, dtype=net.layers[0].weight.dtype))
            assert probe._switch.waiting == []
            values = probe.close().values()
            assert values == pytest.approx(expected(net.seen[-1]), rel=1e-4, abs=1e-6)
    assert not any(tap.waits for _, tap in probe._taps)


def test_outputs_that_grow_are_read_at_once():
    net = Net(BETWEEN["relu"])
    probe = Probe(net, WANTED)
    points(net, count=2, probe=probe)
    values, most = points(net, count=2, batch=tap._SMALL, probe=probe)
    assert most == 0
    assert values[-1] == pytest.approx(expected(net.seen[-1]), rel=1e-4, abs=1e-9)


def test_outputs_that_become_another_dtype_are_read_all_the_same():
    net = Net(BETWEEN["relu"])
    probe = Probe(net, WANTED)
    points(net, count=2, probe=probe)
    with probe, torch.autocast("cpu", torch.bfloat16):
        probe.open()
        net(torch.randn(4, 6))
        assert len(probe._switch.waiting) == 5
        values = probe.close().values()
    assert values == pytest.approx(expected(net.seen[-1]), rel=1e-4, abs=1e-6)


def test_without_the_kernel_nothing_waits(monkeypatch):
    monkeypatch.setattr(fast, "_kernel", None)
    monkeypatch.setattr(fast, "prepare", lambda: None)
    net = Net(BETWEEN["relu"])
    values, most = points(net)
    assert most == 0
    assert values[-1] == pytest.approx(expected(net.seen[-1]), rel=1e-4, abs=1e-9)


def test_threads_that_run_one_model_lose_nothing():
    net = Net(BETWEEN["relu"], depth=40)
    x = torch.randn(8, 6)
    with Probe(net, WANTED) as probe:
        for _ in range(4):
            probe.open()
            threads = [threading.Thread(target=lambda: [net(x) for _ in range(5)]) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            values = probe.close()
            assert list(values._activations._columns[0]) == [4 * 5 * 48] * 40
            net.seen.clear()


STRANGE = {
    "inference": lambda net, x: torch.inference_mode()(net)(x),
    "vmap": lambda net, x: torch.func.vmap(net)(x[None]),
    "grad": lambda net, x: torch.func.grad(lambda x: net(x).sum())(x),
}


@pytest.mark.parametrize("kind", STRANGE)
def test_a_layer_that_waits_may_return_what_cannot(kind):
    net = Net(BETWEEN["relu"])
    net.seen = [{}]
    probe = Probe(net, WANTED)
    x = torch.randn(7, 6)
    with probe:
        for step in range(4):
            probe.open()
            net.layers[0](x)
            if step == 3:
                STRANGE[kind](net.layers[0], x)
            probe.before_update()
            values = probe.close().values()
    assert values["activation_mean/layers.0"] == pytest.approx(net.layers[0](x).mean().item(), rel=1e-4)


def test_an_output_of_inference_is_read_before_it_can_be_changed():
    net = Net(BETWEEN["relu"])
    probe = Probe(net, WANTED)
    points(net, count=2, probe=probe)
    net.between = BETWEEN["in-place relu"]
    with torch.inference_mode():
        values, most = points(net, count=1, probe=probe)
    assert most == 0
    assert values[0] == pytest.approx(expected(net.seen[-1]), rel=1e-4)


def test_a_view_of_a_parameter_has_a_value_at_each_point():
    net = Weight()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    with Probe(net, WANTED) as probe:
        for _ in range(4):
            probe.open()
            before = net.weight.detach().clone()
            net().square().sum().backward()
            probe.before_update()
            optimizer.step()
            assert probe.close().values()["activation_mean/Weight"] == pytest.approx(before.mean().item(), rel=1e-4)


def test_what_the_layer_itself_changes_in_place_later_has_a_value_at_each_point():
    class Own(nn.Linear):
        def forward(self, x):
            y = super().forward(x)
            return y.relu_() if self.in_place else y

    layer = Own(6, 6)
    x = torch.randn(7, 6)
    with Probe(layer, WANTED) as probe:
        for layer.in_place in (False, False, True, False, True):
            probe.open()
            y = layer(x)
            probe.before_update()
            assert probe.close().values()["activation_mean/Own"] == pytest.approx(y.mean().item(), rel=1e-4)


@pytest.mark.parametrize("leave", ["pause", "detach"])
def test_nothing_is_held_while_the_probe_rests(leave):
    net = Net(BETWEEN["nothing"])
    probe = Probe(net, WANTED)
    points(net, count=2, probe=probe)
    probe.attach()
    probe.open()
    y = weakref.ref(net(torch.randn(7, 6)))
    assert y() is not None
    getattr(probe, leave)()
    gc.collect()
    assert y() is None
    assert probe.close().values() == pytest.approx(expected(net.seen[-1]), rel=1e-4)
    probe.detach()


def test_whole_numbers_are_no_activations():
    net = Codes()
    values, _ = points(net)
    assert values == [{}] * 5


def test_a_model_that_holds_its_probe_can_be_copied():
    net = Net(BETWEEN["relu"])
    net.probe = Probe(net, WANTED)
    points(net, count=2, probe=net.probe)
    copied = copy.deepcopy(net)
    assert copied.probe._switch.model is copied
