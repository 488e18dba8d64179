"""LSUV: scale each layer, in the order in which they run, until its output has unit variance on real data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from lightning_init._running import Call
from lightning_init.calibration.base import Adjustment, Calibration, Progress, Unit
from lightning_init.calibration.walk import Again, variance, walk
from lightning_init.rules import InitializerLike

_TINY = 1e-30  # variance from which no factor leads back


@dataclass(frozen=True)
class Lsuv(Calibration):
    """Layer-sequential unit variance: an orthonormal start, then `W <- W / std(output)` layer by layer.

    The output is the layer's own, before normalization and nonlinearity. Attention is scaled at its output
    projection; recurrent layers, whose outputs are bounded, and embeddings stay as the start made them.

    Mishkin & Matas 2016, All you need is a good init, algorithm 1 (tolerance and iterations: section 2; the code
    published with it has .02 and 20).

    Args:
        tolerance: how far from 1 a variance may stay.
        iterations: how often a layer may be scaled. One is enough for a layer without a bias.
        initializer: what the weights start from.

    Raises:
        ValueError, TypeError: for settings out of range.

    >>> import torch
    >>> model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64))
    >>> data = torch.rand(32, 8)
    >>> done = Lsuv().calibrate_(model, [data])
    >>> round(model(data).var(correction=0).item(), 1)
    1.0
    """

    tolerance: float = 0.05
    iterations: int = 10
    initializer: InitializerLike = "orthogonal"

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.tolerance, bool) or not isinstance(self.tolerance, (int, float)):
            raise TypeError(f"tolerance of Lsuv must be a number, got {self.tolerance!r}")
        if not 0 < self.tolerance < 1:
            raise ValueError(f"tolerance of Lsuv must lie in (0, 1), got {self.tolerance}")
        if isinstance(self.iterations, bool) or not isinstance(self.iterations, int):
            raise TypeError(f"iterations of Lsuv must be a whole number, got {self.iterations!r}")
        if self.iterations < 1:
            raise ValueError(f"iterations of Lsuv must be at least 1, got {self.iterations}")

    @property
    def start(self) -> InitializerLike:
        """The initializer that the weights get first."""
        return self.initializer

    def adjust(
        self, model: nn.Module, calls: Sequence[Call], units: Sequence[Unit], progress: Progress
    ) -> list[Adjustment]:
        """Scale each layer in one pass through the model."""
        return walk(model, calls[0], units, self._settle, progress)

    def _settle(self, unit: Unit, output: Tensor, again: Again) -> Adjustment:
        before = after = variance(output)
        factor, count = 1.0, 0
        while not abs(after - 1) < self.tolerance and count < self.iterations:
            _check_movable(unit, after)
            step = 1 / math.sqrt(after)
            unit.place.write_(unit.place.read() * step)
            last, after = after, variance(again())
            factor, count = factor * step, count + 1
            if abs(after - last) <= 1e-6 * last:
                raise ValueError(
                    f"layer {unit.layer}: scaling {unit.place.name} does not change the variance {after:.3g} of its "
                    f"output{_because(unit)}; leave it out with a rule that maps it to None"
                )
        short = "" if abs(after - 1) < self.tolerance else f", still off after {count} iterations"
        repeated = "" if unit.calls == 1 else f"; runs {unit.calls} times, set on the first"
        why = f"output variance {before:.4g} -> {after:.4g} by a factor {factor:.4g}{short}{repeated}"
        return Adjustment(unit.layer, unit.place.name, factor, before, after, count, why)


def _check_movable(unit: Unit, found: float) -> None:
    if not math.isfinite(found):
        raise ValueError(f"layer {unit.layer}: its output is not finite, so no factor gives it unit variance")
    if found < _TINY:
        dead = "its weights are zero" if not bool(unit.place.read().any()) else "its inputs are all equal or all zero"
        raise ValueError(
            f"layer {unit.layer}: its output is constant over the batch, so no factor gives it unit variance: {dead}"
        )


def _because(unit: Unit) -> str:
    return "" if unit.place.kind == "direct" else f" (its {unit.place.kind} fixes the scale)"
