"""What the tests of calibrations share: a network, and whether anything in a model was changed."""

import random

import numpy as np
import torch
from torch import nn


def mlp(nonlinearity=nn.ReLU, depth=4):
    net = nn.Sequential()
    for features in (16, *[32] * (depth - 1)):
        net.extend([nn.Linear(features, 32), nonlinearity()])
    return net[:-1]


def state(model):
    return {
        "parameters": {k: v.clone() for k, v in model.state_dict(keep_vars=False).items()},
        "gradients": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "modes": [module.training for module in model.modules()],
        "hooks": [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()],
        "streams": (torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()),
    }


def differing(a, b):
    names = {k for k in a["parameters"] if not torch.equal(a["parameters"][k], b["parameters"][k])}
    rest = {k for k in a if k not in ("parameters", "gradients") and a[k] != b[k]}
    grads = any(
        (g is None) != (h is None) or (g is not None and not torch.equal(g, h))
        for g, h in zip(a["gradients"], b["gradients"], strict=True)
    )
    return names | rest | ({"gradients"} if grads else set())
