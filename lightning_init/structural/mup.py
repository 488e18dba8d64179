"""muP: initial stds that let networks of different widths begin, and learn, alike; and the check of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import ClassVar

import torch
from torch import Tensor, nn

from lightning_init._running import Call, as_it_was, call_of
from lightning_init.auto.structure import Structure
from lightning_init.fans import Fans, Shape
from lightning_init.initializers._checks import number
from lightning_init.initializers.base import Initializer
from lightning_init.initializers.variance_scaling import KaimingNormal
from lightning_init.placement import places
from lightning_init.signals.profiling import measure
from lightning_init.structural.base import Special, Structural


@dataclass(frozen=True)
class OutputWeights(Initializer):
    """N(0, base_width / fan_in^2): what `Mup` gives to last layers."""

    needs_layout: ClassVar[bool] = True

    base_width: float = 1.0

    def target_std(self, shape: Shape, fans: Fans | None) -> float:
        """Return `sqrt(base_width) / fan_in`."""
        del shape
        if fans is None:
            raise ValueError(f"{self} needs fan_in, and it is not known")
        return math.sqrt(self.base_width) / fans.fan_in

    def fill_(self, block: Tensor, fans: Fans | None, generator: torch.Generator | None) -> None:
        """Draw every entry."""
        block.normal_(0.0, self.target_std(block.shape, fans), generator=generator)


@dataclass(frozen=True)
class Mup(Structural):
    """Hidden and input weights as usual, variance 1 / fan_in times a gain; output weights base_width / fan_in^2.

    At `base_width` inputs of the last layer it is the usual initialization; wider networks start with outputs that
    shrink as 1 / sqrt(width), so that features can move by as much as in a narrow one.

    Yang, Hu, Babuschkin et al. 2022, Tensor programs V: tuning large neural networks via zero-shot hyperparameter
    transfer, table 8. This is its initialization only: the learning rates of the hidden layers (Adam: 1 / width) and
    attention's 1 / d belong to the optimizer and the model.

    Args:
        base_width: fan_in of the last layer of the network whose hyperparameters are to be kept.
        nonlinearity: whose gain the hidden weights get.

    >>> OutputWeights(64).target_std((10, 1024), Fans(1024, 10)), OutputWeights(64).target_std((10, 64), Fans(64, 10))
    (0.0078125, 0.125)
    """

    base_width: float = 64
    nonlinearity: str = "relu"

    def __post_init__(self) -> None:
        number(self, "base_width", above=0)
        _ = self.rest

    @property
    def rest(self) -> Initializer:
        """Variance gain^2 / fan_in."""
        return KaimingNormal(self.nonlinearity)

    def special(self, model: nn.Module, found: Structure) -> Special:
        """Return the last layers."""
        heads = [name for name, one in found.layers.items() if one.head and one.order >= 0]
        tied = [
            place.name for place in places(model) if place.also and any(f"{h}.weight" in place.names for h in heads)
        ]
        if not heads:
            raise ValueError(f"{self.label} scales the last layer, and {type(model).__name__} has none")
        if tied:
            raise ValueError(f"{self.label}: {tied[0]} is input and output at once; they scale differently: untie them")
        why = f"last layer: std sqrt({self.base_width:g}) / fan_in"
        return {f"{name}.weight": (OutputWeights(self.base_width), why) for name in heads}


def coordinate_check(
    make: Callable[[int], nn.Module], widths: Sequence[int], batch: object, *, prepare: Callable[[nn.Module], object]
) -> dict[str, float]:
    """Return, for each layer, the exponent p of `std of its outputs ~ width^p` over networks of several widths.

    Under muP hidden layers have 0 and last layers -1/2 at the start; what grows (p > 0) blows up as networks widen.

    Yang et al. 2022, appendix D.1.

    Args:
        make: width -> model; layers have the same names for every width.
        widths: at least two.
        batch: as `lightning_init.diagnose` takes it.
        prepare: initializes a model in place.

    >>> from lightning_init import initialize
    >>> def make(n):
    ...     return nn.Sequential(nn.Linear(8, n), nn.ReLU(), nn.Linear(n, n), nn.ReLU(), nn.Linear(n, 4))
    >>> x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    >>> found = coordinate_check(make, [64, 1024], x, prepare=lambda model: initialize(model, Mup(), seed=0))
    >>> abs(found["2"]) < 0.1, abs(found["4"] + 0.5) < 0.1
    (True, True)
    """
    if len(set(widths)) < 2:
        raise ValueError(f"widths must hold at least two different ones, got {list(widths)}")
    points: dict[str, list[tuple[float, float]]] = {}
    for width in widths:
        model = make(width)
        prepare(model)
        call: Call = call_of(model, batch)
        with as_it_was(model):
            for layer in measure(model, call).spine:
                if layer.activation_variance:
                    points.setdefault(layer.name, []).append((math.log(width), math.log(layer.activation_variance) / 2))
    return {name: _slope(found) for name, found in points.items() if len(found) == len(widths)}


def _slope(points: Sequence[tuple[float, float]]) -> float:
    x0, y0 = (fmean(values) for values in zip(*points, strict=True))
    rise: float = sum((x - x0) * (y - y0) for x, y in points)
    return rise / sum((x - x0) ** 2 for x, _ in points)
