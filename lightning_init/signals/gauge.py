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

_DEAD = 1  # what is known of a unit; 0: nothing, 2: it lives


class Taken:
    """What a gauge had pooled.

    Args:
        gauge: that pooled it.
        moments: of what was reduced here and pooled at once; None if there was nothing.
        summaries: of the rest.
        units: how many were zero throughout, and how many there are, where units are followed.
    """

    __slots__ = ("_gauge", "_moments", "_summaries", "_units")

    def __init__(
        self,
        gauge: Gauge,
        moments: Moments | None = None,
        summaries: Sequence[Summary | Sent] = (),
        units: Sent | None = None,
    ) -> None:
        self._gauge = gauge
        self._moments = moments
        self._summaries = summaries
        self._units = units

    def __bool__(self) -> bool:
        """Return whether there was anything."""
        return self._moments is not None or bool(self._summaries)

    def summary(self) -> Summary:
        """Return the summary of everything, after waiting for what was sent."""
        parts = [Summary(*part()) if callable(part) else part for part in self._summaries]
        if self._moments is not None:
            number, mean, m2 = self._moments
            parts.append(Summary(number, mean.real, mean.imag, m2))
        return pooled(parts)

    def rows(self) -> list[Summary]:
        """Return the one summary."""
        return [self.summary()]

    def lone(self) -> tuple[str, ...]:
        """Return the tags if it was a single number."""
        return self._gauge.tags if self and self.summary().number == 1 else ()

    def values(self, rows: Sequence[Summary] | None = None) -> dict[str, float]:
        """Return tag -> value, of `rows` pooled over the ranks where these are given; nothing if all was empty."""
        moments = self._moments
        if rows is None and moments is not None and not self._summaries and self._gauge.lean:
            return {tag: formula(moments) for tag, formula in self._gauge.of_moments} if moments[0] else {}
        summary = self.summary() if rows is None else pooled(rows)
        if not summary.number:
            return {}
        moments = summary.moments
        values = {tag: formula(moments) for tag, formula in self._gauge.of_moments}
        values.update((tag, formula(summary)) for tag, formula in self._gauge.of_summary)
        dead, seen = self._units() if rows is None and self._units is not None else (0, 0)
        if seen:
            values[self._gauge.dead_tag] = dead / seen
        return values


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
    >>> gauge.take().values()
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
        self.of_summary = [(tag, FULL[name]) for tag, name in series.items() if name in FULL]
        if unit_dim is not None:
            self.of_summary = [(tag, formula) for tag, formula in self.of_summary if series[tag] != "zero_fraction"]
        self.dead_tag = next((tag for tag, name in series.items() if name == "zero_fraction"), "")
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
        if self.lean and self._is_here(values):
            self.pool(fast.moments(values))
        else:
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

    def collect(self) -> None:
        """Take over what compiled graphs pooled."""
        if self.traced and self._state is not None:
            self._send(self._state)
            if self._unit_state is not None:
                self._pool_units(self._unit_state.clone())
            self.discard()

    def discard(self) -> None:
        """Forget what compiled graphs pooled since the last `collect`."""
        if self.traced and self._state is not None:
            self._state.copy_(torch.tensor(Summary()))
            if self._unit_state is not None:
                self._unit_state.zero_()

    def take(self) -> Taken:
        """Return what was pooled and forget it."""
        if self.traced:
            self.collect()
        moments, self._moments = self._moments, None
        if not self._summaries:
            return Taken(self, moments)
        summaries, self._summaries = self._summaries, []
        return Taken(self, moments, summaries, self._take_units())

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
        if self._transfers is None or self._is_here(counts):
            return counts.tolist
        return self._transfers(counts.device).put(counts)

    @staticmethod
    def _is_here(values: Tensor) -> bool:
        """Return whether asking for numbers waits for no device."""
        return values.is_cpu

    def _send(self, row: Tensor) -> None:
        if self._transfers is None or self._is_here(row):
            self._summaries.append(Summary(*row.tolist()))
        else:
            self._summaries.append(self._transfers(row.device).put(row))
