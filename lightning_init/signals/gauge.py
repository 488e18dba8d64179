"""A gauge pools the values of one layer's signal until they are read.

Tensors on the CPU are reduced at once. Elsewhere their sums stay on the device and travel with everyone else's, in
one copy per point. Inside a compiled graph the sums are pooled into a tensor of the gauge's own: a graph can write
into memory that exists, but must not depend on how often it ran.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import pad

from lightning_init.signals import fast
from lightning_init.signals.catalogue import FULL, LEAN
from lightning_init.signals.statistics import Moments, Summary, merge, pooled, summarize
from lightning_init.signals.transfer import Sent, Transfer

Transfers: TypeAlias = Callable[[torch.device], Transfer]
Bounds: TypeAlias = tuple[float, float]

Content: TypeAlias = tuple[Moments | None, Sequence[Summary | Sent], Sent | None]
"""The moments of what was reduced here; summaries of the rest; how many units are dead, and how many were seen."""

_DEAD = 1  # what is known of a unit; 0: nothing, 2: it lives


class Gauge:
    """Pools tensors; `take` hands over what there is and starts afresh.

    Args:
        series: tag -> statistic.
        transfers: gives the transfer of a device; None reduces at once on every device.
        bounds: of a bounded nonlinearity, for its saturation.
        unit_dim: gives the dimension of the units of a tensor; `zero_fraction` is then the share of the units that
            are zero in all of it (dead units). None: the share of the values that are zero.

    >>> gauge = Gauge({"activation_variance/0": "variance", "activation_max/0": "max"})
    >>> gauge.add(torch.tensor([1.0, 2.0]))
    >>> gauge.add(torch.tensor([6.0]))
    >>> Taken([gauge]).values()
    {'activation_variance/0': 4.666666666666667, 'activation_max/0': 6.0}
    """

    def __init__(
        self,
        series: dict[str, str],
        transfers: Transfers | None = None,
        bounds: Bounds | None = None,
        unit_dim: Callable[[Tensor], int] | None = None,
    ) -> None:
        self.tags = tuple(series)
        self.lean = set(series.values()) <= set(LEAN)
        self.of_moments = [(tag, LEAN[name]) for tag, name in series.items() if name in LEAN]
        self._of_summary = [(tag, FULL[name]) for tag, name in series.items() if name in FULL]
        if unit_dim is not None:
            self._of_summary = [(tag, formula) for tag, formula in self._of_summary if series[tag] != "zero_fraction"]
        self._dead_tag = next((tag for tag, name in series.items() if name == "zero_fraction"), "")
        self._transfers = transfers
        self._bounds = bounds
        self._moments: Moments | None = None
        self._summaries: list[Summary | Sent] = []
        self._follows_units = unit_dim is not None and "zero_fraction" in series.values()
        self._unit_dim = unit_dim
        self._units: Tensor | None = None  # what is known of each unit
        self._state: Tensor | None = None  # what compiled graphs write to
        self._unit_state: Tensor | None = None  # the same, for units
        self.traced = False  # whether compiled graphs write to it

    def add(self, values: Tensor) -> None:
        """Pool `values` with what came before."""
        if self.lean and values.is_cpu:
            self.pool(fast.moments(values))
            return
        self._send(summarize(values, self._bounds, only_moments=self.lean))
        if self._follows_units and values.ndim and values.numel():
            self._pool_units(self._seen(values.detach()))

    def pool(self, moments: Moments) -> None:
        """Pool the moments of some values with what came before."""
        self._moments = moments if self._moments is None else fast.merged(self._moments, moments)

    def prepare(self, device: torch.device, units: int) -> None:
        """Make room on `device` for what compiled graphs will pool.

        Args:
            device: of the values.
            units: how many a layer has at most; of an output that has more, there is no `zero_fraction`.
        """
        if self._state is not None and self._state.device == device:
            return  # graphs of an earlier fit go on writing to it
        dtype = torch.float32 if device.type == "mps" else torch.float64
        self._state = torch.tensor(Summary(), dtype=dtype, device=device)
        if self._follows_units:
            self._unit_state = torch.zeros(units, dtype=torch.uint8, device=device)

    def trace(self, values: Tensor) -> None:
        """Pool `values` from within a graph that is being compiled."""
        if self._state is not None and values.numel():
            part = summarize(values, self._bounds, only_moments=self.lean).to(self._state)
            self._state.copy_(torch.stack(merge(self._state.unbind(), part.unbind(), torch.minimum, torch.maximum)))
            self.traced = True
            if self._unit_state is not None and values.ndim:
                seen = self._seen(values.detach())
                if len(seen) <= len(self._unit_state):
                    known = self._unit_state[: len(seen)]
                    known.copy_(torch.maximum(known, seen))

    def take(self) -> Content | None:
        """Return what was pooled and forget it; None if there was nothing."""
        if self.traced:
            self._collect()
        moments, self._moments = self._moments, None
        if not self._summaries:
            return None if moments is None else (moments, (), None)
        summaries, self._summaries = self._summaries, []
        return moments, summaries, self._take_units()

    def values(self, summary: Summary, units: Sent | None = None) -> dict[str, float]:
        """Return tag -> value; nothing if all that was pooled was empty."""
        if not summary.number:
            return {}
        moments = summary.moments
        values = {tag: formula(moments) for tag, formula in self.of_moments}
        values.update((tag, formula(summary)) for tag, formula in self._of_summary)
        dead, seen = units() if units is not None else (0, 0)
        if seen:
            values[self._dead_tag] = dead / seen
        return values

    def _collect(self) -> None:
        """Take over what compiled graphs pooled, and have them start afresh."""
        assert self._state is not None
        self._send(self._state)
        self._state.copy_(torch.tensor(Summary()))
        if self._unit_state is not None:
            self._pool_units(self._unit_state.clone())
            self._unit_state.zero_()

    def _seen(self, values: Tensor) -> Tensor:
        """Return for each unit of `values`, which have at least one, whether it is dead or alive in them."""
        assert self._unit_dim is not None
        alive = (values != 0).movedim(self._unit_dim(values), 0).flatten(1).any(1)
        return alive.to(torch.uint8) + _DEAD

    def _pool_units(self, seen: Tensor) -> None:
        if self._units is not None:
            size = max(len(self._units), len(seen))
            seen = torch.maximum(*(pad(one, (0, size - len(one))) for one in (self._units, seen)))
        self._units = seen

    def _take_units(self) -> Sent | None:
        """Return how many units are dead, and how many were seen."""
        if self._units is None:
            return None
        counts = torch.stack([(self._units == _DEAD).sum(), (self._units != 0).sum()])
        self._units = None
        if self._transfers is None or counts.is_cpu:
            return counts.tolist
        return self._transfers(counts.device).put(counts)

    def _send(self, row: Tensor) -> None:
        if self._transfers is None or row.is_cpu:
            self._summaries.append(Summary(*row.tolist()))
        else:
            self._summaries.append(self._transfers(row.device).put(row))


class Taken:
    """What some gauges had pooled.

    Args:
        gauges: they forget it.

    Attributes:
        contents: of each gauge; None where there was nothing.
    """

    def __init__(self, gauges: Sequence[Gauge]) -> None:
        self._gauges = gauges
        self.contents = [gauge.take() for gauge in gauges]

    def rows(self) -> list[Summary]:
        """Return a summary for each gauge, after waiting for what was sent."""
        return [_summary(content) for content in self.contents]

    def lone(self) -> set[str]:
        """Return the tags of what was a single number."""
        rows = zip(self._gauges, self.rows(), strict=True)
        return {tag for gauge, row in rows if row.number == 1 for tag in gauge.tags}

    def values(self, rows: Sequence[Summary] | None = None) -> dict[str, float]:
        """Return tag -> value, of `rows` pooled over the ranks where these are given."""
        values: dict[str, float] = {}
        if rows is not None:
            for gauge, row in zip(self._gauges, rows, strict=True):
                values.update(gauge.values(row))
            return values
        for gauge, content in zip(self._gauges, self.contents, strict=True):
            if content is None:
                continue
            moments, summaries, units = content
            if moments is None or summaries or not gauge.lean:
                values.update(gauge.values(_summary(content), units))
            elif moments[0]:
                for tag, formula in gauge.of_moments:
                    values[tag] = formula(moments)
        return values


def _summary(content: Content | None) -> Summary:
    if content is None:
        return Summary()
    moments, summaries, _ = content
    parts = [Summary(*part()) if callable(part) else part for part in summaries]
    if moments is not None:
        number, mean, m2 = moments
        parts.append(Summary(number, mean.real, mean.imag, m2))
    return pooled(parts)
