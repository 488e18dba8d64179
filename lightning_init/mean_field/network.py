"""What is to be expected of a whole network: the variance and the gradient at the output of each layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import mul

from lightning_init.gains import moments
from lightning_init.mean_field.maps import NO_VARIANCE, check
from lightning_init.nonlinearities import Nonlinearity


@dataclass(frozen=True)
class Layer:
    """A layer as theory sees it: `W f(x) + b`.

    Args:
        nonlinearity: the f in front of the weights; `linear` for a first layer.
        sigma_w: `std(W) * sqrt(fan_in)`.
        sigma_b: std of the biases.
        sigma_back: `std(W) * sqrt(fan_out)`; that of the forward direction when None.
    """

    nonlinearity: Nonlinearity
    sigma_w: float
    sigma_b: float = 0.0
    sigma_back: float | None = None


@dataclass(frozen=True)
class Prediction:
    """What is to be expected at a layer's output.

    Args:
        variance: second moment of the outputs.
        gradient: second moment of the loss gradient there, relative to the last layer's output.
    """

    variance: float
    gradient: float


def predict(layers: Sequence[Layer], *, q: float = 1.0) -> list[Prediction]:
    """Return, for each layer in order, the variance of its output and the squared gradient there.

    Args:
        layers: first to last.
        q: second moment of the network's input, the argument of the first layer's nonlinearity.

    >>> profile = predict([Layer("linear", 1.0)] + [Layer("tanh", 5 / 3)] * 49)  # tanh with torch's gain
    >>> round(profile[-1].variance, 2), f"{profile[0].gradient:.0e}"
    (1.18, '1e+04')
    """
    variances: list[float] = []
    factors: list[float] = []
    for layer in layers:
        check(layer.sigma_w, layer.sigma_b)
        at = moments(layer.nonlinearity, max(q, NO_VARIANCE))
        sigma_back = layer.sigma_w if layer.sigma_back is None else layer.sigma_back
        q = layer.sigma_w**2 * at.square + layer.sigma_b**2
        variances.append(q)
        factors.append(sigma_back**2 * at.slope_square)
    gradients = list(accumulate(reversed(factors[1:]), mul, initial=1.0))[::-1]
    return [Prediction(*both) for both in zip(variances, gradients, strict=False)]
