"""A small model, and a step of it with a probe attached."""

import torch
from torch import nn

from lightning_init.signals.layers import first_tensor


def mlp():
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def step(probe, model, x, optimizer=None, histograms=False):
    probe.open(histograms=histograms)
    model.zero_grad()
    output = model(x)
    (output if isinstance(output, torch.Tensor) else first_tensor(output)).square().sum().backward()
    probe.before_update()
    if optimizer is not None:
        optimizer.step()
    return probe.close()
