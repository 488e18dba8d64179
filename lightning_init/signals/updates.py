"""Updates: by how much the optimizer changed each weight, from a copy taken before it did."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch import Tensor

from lightning_init.signals.catalogue import LEAN
from lightning_init.signals.gauge import Gauge, Taken, Transfers
from lightning_init.signals.statistics import Summary


class Update:
    """The change of one weight over a point.

    Args:
        name: of the weight in the logs.
        read: gives the weight, as far as this rank counts it.
        statistics: of the change; `ratio` is its norm over the norm of the weight before it.
        transfers: gives the transfer of a device.
    """

    def __init__(self, name: str, read: Callable[[], Tensor], statistics: Sequence[str], transfers: Transfers) -> None:
        self._name = name
        self._read = read
        self._ratio = "ratio" in statistics
        series = {f"update_{one}/{name}": one for one in statistics if one != "ratio"}
        self.tags = [f"update_{one}/{name}" for one in statistics]
        self._change = Gauge({**series, "change": "norm"} if self._ratio else series, transfers)
        self._size = Gauge({"size": "norm"}, transfers)
        self._before: Tensor | None = None

    def before(self) -> None:
        """Remember the weight."""
        self._before = self._read().clone()

    def after(self) -> None:
        """Measure how it changed."""
        if self._before is not None:
            self._change.add(self._read() - self._before)
            if self._ratio:
                self._size.add(self._before)
            self._before = None

    def take(self) -> Change:
        """Return what was measured, and start afresh."""
        return Change(self._name, Taken([self._change]), Taken([self._size]) if self._ratio else None)


class Change:
    """How one weight changed over a point.

    Args:
        name: of the weight in the logs.
        change: what was taken of the change; nothing if nothing was updated.
        size: what was taken of the weight before it; None where no ratio is asked for.
    """

    def __init__(self, name: str, change: Taken, size: Taken | None) -> None:
        self._name = name
        self._change = change
        self._size = size

    def rows(self) -> list[Summary]:
        """Return the summaries of the change and of the weight before it."""
        return self._change.rows() + (self._size.rows() if self._size is not None else [])

    def values(self, rows: Sequence[Summary] | None = None) -> dict[str, float]:
        """Return tag -> value."""
        values = self._change.values(None if rows is None else rows[:1])
        changed = values.pop("change", None)
        if changed is not None and self._size is not None:
            (size,) = self._size.rows() if rows is None else rows[1:]
            before = LEAN["norm"](size.moments)
            values[f"update_ratio/{self._name}"] = changed / before if before else math.inf if changed else 0.0
        return values
