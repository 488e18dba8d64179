"""Hooks are there when they are wanted, and at no other time; they hold nothing, and cost what they must."""

import copy
import gc
import itertools
import pickle
import sys
import warnings

import pytest
import torch
from probed import mlp, step
from torch import nn

from lightning_init.signals import fast
from lightning_init.signals.catalogue import Wanted
from lightning_init.signals.probe import Probe


def test_layers_that_are_not_called_are_named_with_the_reason():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2)
            self.scales = nn.ParameterList([torch.ones(4)])
            self.unused = nn.Linear(4, 4)

        def forward(self, x):
            return self.attention(x, x, x)[0] * self.scales[0]

    model = Odd()
    with Probe(model) as probe:
        step(probe, model, torch.randn(3, 1, 4))
    assert set(probe.silent) == {"attention.out_proj", "scales", "unused"}
    assert "without calling it" in probe.silent["attention.out_proj"]
    assert "never called" in probe.silent["scales"]


def test_scripted_modules_take_no_hooks_and_cost_nothing_but_their_activations():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch deprecates it; models that were saved so live on
        scripted = torch.jit.script(nn.Sequential(nn.Linear(8, 8), nn.Tanh()))
    model = nn.Sequential(nn.Linear(6, 8), scripted, nn.Linear(8, 2))
    with Probe(model) as probe:
        values = step(probe, model, torch.randn(3, 6)).values()
    assert {"weight_variance/1.0", "gradient_norm/1.0", "activation_variance/2"} <= set(values)
    assert "torch.jit.script" in probe.silent["1.0"]


def test_hooks_are_removed_even_on_an_exception():
    model = mlp()
    with pytest.raises(RuntimeError, match="planned"), Probe(model):
        raise RuntimeError("planned")
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_a_layer_that_is_copied_within_a_point_takes_nothing_along(copied):
    model = mlp()
    with Probe(model, Wanted(activations=("std", "max"))) as probe:
        probe.open()
        twin = copied(model[0])
        for _ in range(3):
            twin(torch.ones(5, 6))
        model(torch.ones(5, 6))
        values = probe.close().values()
    assert values["activation_max/0"] == pytest.approx(model[0](torch.ones(5, 6)).max().item())
    (hook,) = twin._forward_hooks.values()
    assert not [one for one in gc.get_referents(hook) if not isinstance(one, type)]


def test_nothing_is_measured_in_eval_mode_or_while_paused():
    model = mlp()
    with Probe(model) as probe:
        probe.open()
        model(torch.ones(1, 6))
        model.eval()(torch.full((9, 6), 50.0))
        model.train()
        probe.pause()
        model(torch.full((9, 6), 50.0))
        probe.resume()
        first = probe.close().values()
        probe.open()
        model(torch.ones(1, 6))
        assert probe.close().values() == pytest.approx(first)


def test_activations_are_not_kept_alive():
    import weakref

    model, alive = mlp(), []
    model[0].register_forward_hook(lambda module, args, output: alive.append(weakref.ref(output)))
    with Probe(model) as probe:
        for _ in range(3):
            step(probe, model, torch.ones(5, 6))
    assert [ref() for ref in alive] == [None] * 3


def test_an_output_that_cannot_be_read_is_not_kept_alive_either():
    import weakref

    model = mlp()
    x = torch.randn(5, 6)
    alive = weakref.ref(x)
    with Probe(model) as probe:
        probe.open()
        torch.vmap(lambda row: model(row).sum())(x)
        probe.close()
    assert "could not be read" in probe.silent["0"]
    del x
    assert alive() is None


def test_nothing_piles_up_from_step_to_step():
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    x = torch.randn(5, 6)
    with Probe(model, Wanted(updates=("ratio",))) as probe:

        def objects(steps):
            for _ in range(steps):
                step(probe, model, x, optimizer).values()
            gc.collect()
            return len(gc.get_objects())

        first = objects(5)
        assert objects(200) <= first + 20


def test_the_work_of_a_step_grows_linearly_with_the_layers():
    calls = {}
    for layers in (20, 40, 80):
        model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(layers)))
        for layer in model:
            nn.init.orthogonal_(layer.weight)
        with Probe(model) as probe:
            step(probe, model, torch.randn(2, 4))
            count = itertools.count()
            sys.setprofile(lambda frame, event, arg, count=count: next(count) if "call" in event else None)
            try:
                probe.before_update()
                probe.close().values()
            finally:
                sys.setprofile(None)
            calls[layers] = next(count)
        assert sum(len(module._forward_hooks) for module in model.modules()) == 0
    assert calls[80] - calls[40] == pytest.approx(2 * (calls[40] - calls[20]), rel=0.02)


def test_on_steps_that_are_not_measured_the_hooks_do_nothing(monkeypatch):
    model, reduced = mlp(), []
    for owner, way in ((fast.Row, "add"), (fast, "pool")):
        monkeypatch.setattr(owner, way, lambda *_, way=way: reduced.append(way))
    with Probe(model) as probe:
        probe.open()
        model(torch.ones(5, 6))
        assert reduced  # on a step that is measured
        probe.close()
        reduced.clear()
        model(torch.ones(5, 6)).sum().backward()
    assert not reduced
