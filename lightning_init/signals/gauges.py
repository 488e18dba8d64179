"""The gauges of one signal: the moments that they pool lie in one table, which is read at once."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress
from typing import TypeAlias

from lightning_init.signals.catalogue import Column, OfMoments
from lightning_init.signals.fast import Table
from lightning_init.signals.gauge import Gauge, Others, Rest
from lightning_init.signals.statistics import Summary, pooled

Series: TypeAlias = Sequence[tuple[OfMoments, Sequence[str]]]
"""A formula for each statistic, and the tags of all gauges."""


class Gauges:
    """Some gauges that are read together.

    Args:
        gauges: from now on they pool in rows of one table.

    Attributes:
        tags: of all values that there may be.

    >>> import torch
    >>> gauge = Gauge({"activation_variance/0": "variance", "activation_max/0": "max"})
    >>> gauges = Gauges([gauge])
    >>> gauge.add(torch.tensor([1.0, 2.0]))
    >>> gauge.add(torch.tensor([6.0]))
    >>> gauges.take().values()
    {'activation_variance/0': 4.666666666666667, 'activation_max/0': 6.0}
    """

    def __init__(self, gauges: Sequence[Gauge]) -> None:
        self._gauges = gauges
        self._table = Table(len(gauges))
        self._others = Others()
        for index, gauge in enumerate(gauges):
            gauge.use(self._table.row(index), self._others)
        self.tags = [tag for gauge in gauges for tag in gauge.tags]
        self._series = _common_series(gauges) if all(gauge.lean for gauge in gauges) else None

    def take(self) -> Taken:
        """Return what was pooled, and start afresh."""
        rests: dict[int, Rest] = {}
        others = self._others
        if others.sent or others.traced:
            rests = {row: one.take_rest() for row, one in enumerate(self._gauges) if one.traced or one in others.sent}
            others.sent.clear()
        return Taken(self._gauges, self._series, self._table.take(), rests)


def _common_series(gauges: Sequence[Gauge]) -> Series | None:
    """Return the formulas and tags of gauges that are lean; None unless all have the same statistics."""
    if len({tuple(formula for _, formula in gauge.of_moments) for gauge in gauges}) > 1:
        return None
    statistics = zip(*(gauge.of_moments for gauge in gauges), strict=True)
    return [(pairs[0][1], [tag for tag, _ in pairs]) for pairs in statistics]


class Taken:
    """What some gauges had pooled.

    Args:
        gauges: that pooled it.
        series: formulas and tags, where moments are all that they need, for the same statistics.
        columns: of the moments of what was reduced at once: number, mean (real part, imaginary part), and squared
            deviations of each gauge.
        rests: row -> what was pooled beside it.
    """

    def __init__(
        self, gauges: Sequence[Gauge], series: Series | None, columns: Sequence[Column], rests: dict[int, Rest]
    ) -> None:
        self._gauges = gauges
        self._series = series
        self._columns = columns
        self._rests = rests

    def empty(self) -> list[int]:
        """Return the rows of the gauges that had nothing."""
        if all(self._columns[0]):
            return []
        return [row for row, number in enumerate(self._columns[0]) if not number and row not in self._rests]

    def rows(self) -> list[Summary]:
        """Return a summary for each gauge, after waiting for what was sent."""
        rows = [Summary(*moments) for moments in zip(*self._columns, strict=True)]
        for row, rest in self._rests.items():
            rows[row] = pooled([rows[row], *(part() if callable(part) else part for part in rest.summaries)])
        return rows

    def lone(self) -> set[str]:
        """Return the tags of what was a single number."""
        rows = zip(self._gauges, self.rows(), strict=True)
        return {tag for gauge, row in rows if row.number == 1 for tag in gauge.tags}

    def values(self, rows: Sequence[Summary] | None = None) -> dict[str, float]:
        """Return tag -> value, of `rows` pooled over the ranks where these are given."""
        values: dict[str, float] = {}
        if rows is None and not self._rests and self._series is not None:
            seen = self._columns[0]
            columns = self._columns if all(seen) else [list(compress(column, seen)) for column in self._columns]
            for formula, tags in self._series:
                values.update(zip(compress(tags, seen), formula(*columns), strict=True))
            return values
        units = {row: rest.units for row, rest in self._rests.items() if rows is None}
        for row, (gauge, summary) in enumerate(zip(self._gauges, rows or self.rows(), strict=True)):
            values.update(gauge.values(summary, units.get(row)))
        return values
