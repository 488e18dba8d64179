r"""The depth profile: what one forward and one backward pass show of every layer, before anything is trained.

Layers stand in the order in which they run. The *spine* is those with weights that mix their inputs (linear,
convolution, attention, recurrent, ...): the trend over depth is read off them. Forward that is the variance of their
outputs, backward the energy of the gradient at their outputs (its squared norm): both stay the same from layer to
layer, whatever the widths and strides, where $Var[W] \, fan\_in \, E[f^2] / q = 1$ and
$Var[W] \, fan\_in \, E[f'^2] = 1$.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean


@dataclass(frozen=True)
class LayerProfile:
    """One layer at step 0; what has no meaning for it, or was not seen, is None.

    Args:
        name: path in the model.
        kind: class of the module.
        spine: whether the trend over depth is read off this layer.
        fan_in: connections per output unit.
        front: the nonlinearity in front of the weights; `linear` for none.
        weight_std: std of the effective weight.
        target_std: the std that would keep the variance: gain of `front` / sqrt(fan_in), as the forward gain of
            `lightning_init.gains.exact`.
        input_square: mean square of the inputs.
        activation_variance: variance of the outputs over everything.
        predicted_variance: the same by theory, from the weights' variance (see `signals.expectation`).
        gradient_norm: norm of the gradient of its own parameters.
        gradient_energy: squared norm of the gradient at its outputs.
        dead: share of the units that are zero (nonlinearities), or get no gradient (weights), in the whole batch.
        saturated: share of the values within 1 % of the range from a bound of a bounded nonlinearity.
        symmetric: share of the units whose weights and gradients equal another unit's: copies for ever.
        nonfinite: how many outputs are nan or inf.
        normalized: whether the next layer to run is a normalization, which sets the scale right.
    """

    name: str
    kind: str
    spine: bool
    fan_in: float | None = None
    front: str | None = None
    weight_std: float | None = None
    target_std: float | None = None
    input_square: float | None = None
    activation_variance: float | None = None
    predicted_variance: float | None = None
    gradient_norm: float | None = None
    gradient_energy: float | None = None
    dead: float | None = None
    saturated: float | None = None
    symmetric: float | None = None
    nonfinite: int = 0
    normalized: bool = False

    @property
    def step(self) -> float | None:
        """Decades by which this layer multiplies its signal: log10(output variance / mean square of the input)."""
        if not self.activation_variance or not self.input_square:
            return None
        return math.log10(self.activation_variance / self.input_square)


@dataclass(frozen=True)
class Trend:
    """A straight line through log10 of a signal over depth.

    Args:
        slope: decades per layer, in the direction in which the signal travels.
        layers: how many layers the signal travels through.
    """

    slope: float
    layers: int

    @property
    def drift(self) -> float:
        """Decades from one end to the other."""
        return self.slope * self.layers


def trend(values: Sequence[float | None]) -> Trend | None:
    """Return the least-squares line through log10 of `values`; None with less than two above zero.

    >>> trend([1.0, 0.1, 0.01, None, 0.0001])
    Trend(slope=-1.0, layers=4)
    """
    points = [(i, math.log10(v)) for i, v in enumerate(values) if v is not None and 0 < v < math.inf]
    if len(points) < 2:
        return None
    x0, y0 = fmean(x for x, _ in points), fmean(y for _, y in points)
    slope = sum((x - x0) * (y - y0) for x, y in points) / sum((x - x0) ** 2 for x, _ in points)
    return Trend(round(slope, 12), len(values) - 1)


@dataclass(frozen=True)
class Profile:
    """The layers in the order in which they ran, and the names of those that never did.

    Args:
        layers: what was measured.
        idle: layers that own parameters and never ran.
        loss: the value of the loss; None if there was none.
        cut: layers that ran and train, and that no gradient comes back to.
    """

    layers: tuple[LayerProfile, ...]
    idle: tuple[str, ...] = ()
    loss: float | None = None
    cut: tuple[str, ...] = ()

    @property
    def spine(self) -> tuple[LayerProfile, ...]:
        """The layers that the trends are read off."""
        return tuple(layer for layer in self.layers if layer.spine)

    @property
    def forward(self) -> Trend | None:
        """Trend of the activations' variance from the network's input to the last layer."""
        spine = self.spine
        return trend([spine[0].input_square, *(layer.activation_variance for layer in spine)]) if spine else None

    @property
    def backward(self) -> Trend | None:
        """Trend of the gradient's energy from the last layer's output to the first layer's."""
        return trend([layer.gradient_energy for layer in reversed(self.spine)])
