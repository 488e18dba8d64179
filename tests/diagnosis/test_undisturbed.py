"""A diagnosis leaves everything as it was, also when it fails, and says the same wherever it is asked."""

import copy
import random

import numpy as np
import pytest
import torch
from patients import batch, mlp
from torch import nn
from torch.nn import functional as F

from lightning_init.diagnosis import diagnose


def state(model):
    return (
        [p.detach().clone() for p in model.parameters()],
        [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        [b.detach().clone() for b in model.buffers()],
        [module.training for module in model.modules()],
        [(dict(m._forward_hooks), dict(m._forward_pre_hooks), dict(m._backward_hooks)) for m in model.modules()],
        torch.get_rng_state(),
        random.getstate(),
        np.random.get_state()[1].tolist(),
        torch.is_grad_enabled(),
    )


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    return len(a) == len(b) and all(map(same, a, b)) if isinstance(a, (list, tuple)) else a == b


class Restless(nn.Module):
    """Draws from every stream, fails when told to."""

    def __init__(self, fails=False):
        super().__init__()
        self.fails = fails
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x):
        self.count += 1
        random.random()
        np.random.rand()
        if self.fails:
            raise RuntimeError("out of order")
        return x + torch.rand(())


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("train", [False, True])
def test_the_model_is_left_as_it_was(fails, train):
    model = nn.Sequential(
        nn.Linear(32, 8), nn.BatchNorm1d(8), nn.ReLU(inplace=True), nn.Dropout(), Restless(fails), nn.Linear(8, 3)
    ).train(train)
    model[0].register_forward_hook(lambda *_: None)
    model(batch()).sum().backward() if not fails else None
    model[1].eval()
    pair = (batch(), torch.zeros(32, dtype=torch.long))
    kept = copy.deepcopy(pair)
    before = state(model)
    if fails:
        with pytest.raises(ValueError, match=r"fails in layer 4 \(Restless\): RuntimeError: out of order"):
            diagnose(model, pair, F.cross_entropy)
    else:
        diagnose(model, pair, F.cross_entropy)
    assert same(state(model), before)
    assert same(pair, kept)


def test_it_says_the_same_every_time_and_inside_no_grad():
    model = nn.Sequential(nn.Linear(32, 8), nn.Dropout(), nn.Linear(8, 3))
    x = batch()
    first = diagnose(model, x).to_dict()
    torch.manual_seed(0)
    with torch.no_grad():
        torch.manual_seed(0)
        second = diagnose(model, x).to_dict()
    torch.manual_seed(0)
    assert diagnose(model, x).to_dict() == second
    assert first.keys() == second.keys()


def test_it_is_no_different_inside_inference_mode():
    model, x = mlp(depth=3), batch()
    outside = diagnose(model, x).to_dict()
    with torch.inference_mode():
        assert diagnose(model, x).to_dict() == outside
        assert diagnose(model, x.clone()).to_dict() == outside


def test_a_compiled_model_is_seen_layer_by_layer():
    model = mlp(depth=3)
    compiled = torch.compile(model, backend="eager")
    compiled(batch())
    assert [one.name for one in diagnose(compiled, batch()).profile.spine] == ["0", "2", "4"]
