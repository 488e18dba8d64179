"""The networks that the tests diagnose: deep, plain, fed with standard normal values."""

import torch
from torch import nn

from lightning_init import initialize
from lightning_init.diagnosis import diagnose


def mlp(nonlinearity=nn.ReLU, depth=50, width=96):
    net = nn.Sequential(nn.Linear(32, width))
    for _ in range(depth - 1):
        net.extend([nonlinearity(), nn.Linear(width, width)])
    return net


def batch(size=32):
    return torch.randn(size, 32)


def diagnosed(initializer, f=nn.ReLU, depth=50, **options):
    model = mlp(f, depth)
    initialize(model, initializer, seed=0, **options)
    return diagnose(model, batch())
