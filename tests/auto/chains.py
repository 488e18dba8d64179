"""Plain chains, what signals do in them, and why a parameter got its initializer."""

import itertools
import math

from torch import nn

from lightning_init import diagnose


def mlp(nonlinearity, depth, width=64):
    widths = [32, *[width] * (depth - 1), 10]
    layers = [nn.Linear(a, b) for a, b in itertools.pairwise(widths)]
    return nn.Sequential(*[part for layer in layers for part in (layer, nonlinearity())][:-1])


def decades(model, x):
    """log10 of last / first: variance of the activations forward, energy of the gradient backward."""
    spine = diagnose(model, x).profile.spine
    forward = [layer.activation_variance for layer in spine]
    backward = [layer.gradient_energy for layer in spine]
    return math.log10(forward[-1] / forward[0] + 1e-300), math.log10(backward[0] / backward[-1] + 1e-300)


def why(report, name):
    return next(entry.why for entry in report.entries if entry.name == name)


class Recurrent(nn.Module):
    def __init__(self, kind, layers):
        super().__init__()
        self.rnn, self.head = kind(16, 64, layers), nn.Linear(64, 64)

    def forward(self, x):
        return self.head(self.rnn(x)[0])
