"""Updates: by how much the optimizer changed each weight, from a copy taken before it did."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch import Tensor

from lightning_init.signals.gauge import Gauge, Transfers
from lightning_init.signals.gauges import Gauges, Taken
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
        self._gauges = Gauges([self._change, self._size])
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
        return Change(self._name, self._gauges.take())


class Change:
    """How one weight changed over a point.

    Args:
        name: of the weight in the logs.
        taken: what was measured of the change, and where a ratio is asked for of the weight before it.
    """

    def __init__(self, name: str, taken: Taken) -> None:
        self._name = name
        self._taken = taken

    def rows(self) -> list[Summary]:
        """Return the summaries of the change and of the weight before it."""
        return self._taken.rows()

    def values(self, rows: Sequence[Summary] | None = None) -> dict[str, float]:
        """Return tag -> value."""
        values = self._taken.values(rows)
        changed, before = values.pop("change", None), values.pop("size", None)
        if changed is not None and before is not None:
            values[f"update_ratio/{self._name}"] = changed / before if before else math.inf if changed else 0.0
        return values
