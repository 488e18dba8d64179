"""A gauge pools the values of one layer's signal until they are read.

Tensors on the CPU are reduced at once. Elsewhere their sums stay on the device and travel with everyone else's, in
one copy per point. Inside a compiled graph the sums are pooled into a tensor of the gauge's own: a graph can write
into memory that exists, but must not depend on how often it ran.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import pad

from lightning_init.signals.catalogue import FULL, LEAN
from lightning_init.signals.fast import Row, Table
from lightning_init.signals.statistics import Summary, merge, summarize
from lightning_init.signals.transfer import Sent, Transfer

Transfers: TypeAlias = Callable[[torch.device], Transfer]
Bounds: TypeAlias = tuple[float, float]

_DEAD = 1  # what is known of a unit; 0: nothing, 2: it lives


class Rest(NamedTuple):
    """What a gauge had pooled beside its row.

    Args:
        summaries: of tensors, some perhaps on their way from a device.
        units: how many units are dead, and how many were seen; None if it follows none.
    """

    summaries: list[Summary | Sent]
    units: Sent | None


class Others:
    """Which gauges of a group hold more than their rows: a look at each gauge would cost more than all the rest.

    Attributes:
        sent: those that were given what rows do not take.
        traced: whether compiled graphs write to any.
    """

    __slots__ = ("sent", "traced")

    def __init__(self) -> None:
        self.sent: set[Gauge] = set()
        self.traced = False


class Gauge:
    """Pools tensors until it is read, together with the other gauges of its signal (`Gauges`).

    Args:
        series: tag -> statistic.
        transfers: gives the transfer of a device; None reduces at once on every device.
        bounds: of a bounded nonlinearity, for its saturation.
        unit_dim: gives the dimension of the units of a tensor; `zero_fraction` is then the share of the units that
            are zero in all of it (dead units). None: the share of the values that are zero.

    Attributes:
        add: pools a tensor with what came before.
        row: where the moments of tensors on the CPU are pooled, if more is not asked for.
        lean: whether it is not.
        of_moments: tag -> formula, of the statistics that need no more than moments.
        tags: all of them.
        others: of its group.
        traced: whether compiled graphs write to it.
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
        self._dead_tag = None if unit_dim is None else next((t for t in series if series[t] == "zero_fraction"), None)
        self._transfers = transfers
        self._bounds = bounds
        self._summaries: list[Summary | Sent] = []
        self._unit_dim = unit_dim
        self._units: Tensor | None = None  # what is known of each unit
        self._state: Tensor | None = None  # what compiled graphs write to
        self._unit_state: Tensor | None = None  # the same, for units
        self.traced = False
        self.use(Table(1).row(0), Others())

    def use(self, row: Row, others: Others) -> None:
        """Pool in `row` from now on, and let `others` know what is pooled beside it."""
        self.row, self.others = row, others
        row.elsewhere = self._reduce
        self.add: Callable[[Tensor], None] = row.add if self.lean else self._reduce

    def _reduce(self, values: Tensor) -> None:
        self._send(summarize(values, self._bounds, only_moments=self.lean))
        if self._dead_tag is not None and values.ndim and values.numel():
            self._pool_units(self._seen(values.detach()))

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
        if self._dead_tag is not None:
            self._unit_state = torch.zeros(units, dtype=torch.uint8, device=device)

    def trace(self, values: Tensor) -> None:
        """Pool `values` from within a graph that is being compiled."""
        if self._state is not None and values.numel():
            part = summarize(values, self._bounds, only_moments=self.lean).to(self._state)
            self._state.copy_(torch.stack(merge(self._state.unbind(), part.unbind(), torch.minimum, torch.maximum)))
            self.traced = self.others.traced = True
            if self._unit_state is not None and values.ndim:
                seen = self._seen(values.detach())
                if len(seen) <= len(self._unit_state):
                    known = self._unit_state[: len(seen)]
                    known.copy_(torch.maximum(known, seen))

    def take_rest(self) -> Rest:
        """Return what was pooled beside its row, and forget it."""
        if self.traced:
            self._collect()
        summaries, self._summaries = self._summaries, []
        return Rest(summaries, self._take_units())

    def values(self, summary: Summary, units: Sent | None = None) -> dict[str, float]:
        """Return tag -> value; nothing if all that was pooled was empty."""
        if not summary.number:
            return {}
        moments = [[moment] for moment in summary[:4]]
        values = {tag: formula(*moments)[0] for tag, formula in self.of_moments}
        values.update((tag, formula(summary)) for tag, formula in self._of_summary if tag != self._dead_tag)
        dead, seen = units() if units is not None else (0, 0)
        if seen and self._dead_tag is not None:
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
        self.others.sent.add(self)
        if self._transfers is None or row.is_cpu:
            self._summaries.append(Summary(*row.tolist()))
        else:
            self._summaries.append(self._transfers(row.device).put(row))
