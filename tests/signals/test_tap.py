"""The figures are those of the outputs as the layers gave them, whatever happens to these later."""

import copy
import gc
import threading
import weakref

import pytest
import torch
from torch import nn

from lightning_init.signals import fast
from lightning_init.signals.catalogue import Wanted
from lightning_init.signals.probe import Probe

WANTED = Wanted(weights=(), activations=("variance", "mean"), gradients=())


@pytest.fixture(autouse=True, params=["compiled", "plain"])
def kernel(request, monkeypatch):
    fast.prepare()
    if request.param == "plain":
        monkeypatch.setattr(fast, "_kernel", None)
        monkeypatch.setattr(fast, "prepare", lambda: None)
    elif fast._kernel is None:
        pytest.skip("Numba is not installed: pip install lightning-init[fast]")


class Net(nn.Module):
    """Linear layers, whose outputs `between` may change before the next one gets them."""

    def __init__(self, between, depth=5, width=6):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.between = between
        self.seen = []

    def forward(self, x):
        self.seen.append({})
        for index, layer in enumerate(self.layers):
            y = layer(x)
            self.seen[-1].setdefault(f"layers.{index}", []).append(y.detach().double().clone())
            x = self.between(y, x)
        return x


class Codes(nn.Module):
    """Returns whole numbers."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 6))

    def forward(self, x):
        return (x @ self.weight).argmax(1)


def unseen(y, _):
    with torch.no_grad():
        y.data.clamp_(-0.1, 0.1)  # no version tells of it
    return y


BETWEEN = {
    "nothing": lambda y, x: y,
    "relu": lambda y, x: torch.relu(y),
    "in-place relu": lambda y, x: torch.relu_(y),
    "in-place residual": lambda y, x: y.add_(x),
    "in-place on a view": lambda y, x: (y[:, :2].zero_(), y)[1],
    "in place, unseen": unseen,
    "resized": lambda y, x: y.detach().clone().resize_(7, 6),
}


def points(net, count=3, dtype=torch.float32):
    """The values of some points."""
    values = []
    with Probe(net, WANTED) as probe:
        for step in range(count):
            probe.open()
            net(torch.randn(7, 6, generator=torch.Generator().manual_seed(step)).to(dtype))
            probe.before_update()
            values.append(probe.close().values())
    return values


def expected(seen):
    values = {}
    for name, calls in seen.items():
        pooled = torch.cat([one.flatten() for one in calls])
        values[f"activation_variance/{name}"] = pooled.var(correction=0).item()
        values[f"activation_mean/{name}"] = pooled.mean().item()
    return values


@pytest.mark.parametrize("between", BETWEEN)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_figures_are_those_of_the_outputs_as_the_layers_gave_them(between, dtype):
    torch.manual_seed(0)
    net = Net(BETWEEN[between]).to(dtype)
    for found, seen in zip(points(net, dtype=dtype), net.seen, strict=True):
        assert found == pytest.approx(expected(seen), rel=1e-4, abs=1e-6)


def test_a_shared_layer_is_pooled_over_its_calls():
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
    for found, seen in zip(points(net), net.seen, strict=True):
        assert found == pytest.approx(expected(seen), rel=1e-4, abs=1e-6)


def test_no_output_is_held():
    outputs = []

    def note(y, x):
        outputs.append(weakref.ref(y))
        return torch.tanh(y)

    net = Net(note)
    with Probe(net, WANTED) as probe:
        probe.open()
        with torch.no_grad():
            net(torch.ones(2, 6))
        gc.collect()
        assert not any(one() is not None for one in outputs)


def test_outputs_may_become_another_dtype():
    net = Net(BETWEEN["relu"])
    with Probe(net, WANTED) as probe:
        for enabled in (False, True, False):
            probe.open()
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                net(torch.randn(4, 6))
            assert probe.close().values() == pytest.approx(expected(net.seen[-1]), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("kernel", ["compiled"], indirect=True)  # else to pool is several operations
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
def test_a_layer_may_return_what_cannot_be_read(kind):
    """And no error is left behind of what torch was asked in vain."""
    layer = nn.Linear(6, 6)
    x = torch.randn(7, 6)
    with Probe(layer, WANTED) as probe:
        probe.open()
        layer(x)
        STRANGE[kind](layer, x)
        values = probe.close().values()
    assert values["activation_mean/Linear"] == pytest.approx(layer(x).mean().item(), rel=1e-4)


def test_whole_numbers_are_no_activations():
    assert points(Codes()) == [{}] * 3


def test_a_model_that_holds_its_probe_can_be_copied():
    net = Net(BETWEEN["relu"])
    net.probe = Probe(net, WANTED)
    net.probe.open()
    net(torch.randn(7, 6))
    copied = copy.deepcopy(net)
    assert copied.probe._switch.model is copied
