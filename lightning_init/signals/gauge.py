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

from lightning_init.signals import fast
from lightning_init.signals.catalogue import FULL, LEAN
from lightning_init.signals.statistics import Moments, Summary, merge, pooled, summarize
from lightning_init.signals.transfer import Sent, Transfer

Transfers: TypeAlias = Callable[[torch.device], Transfer]
Bounds: TypeAlias = tuple[float, float]


class Taken(NamedTuple):
    """What a gauge had pooled.

    Args:
        moments: of what was reduced here and pooled at once.
        summaries: of the rest.
        dead: share of the units that were zero throughout, where units are followed.
    """

    moments: Moments | None
    summaries: list[Summary | Sent]
    dead: Sent | None = None

    def summary(self) -> Summary:
        """Return the summary of everything, after waiting for what was sent."""
        parts = [Summary(*part()) if callable(part) else part for part in self.summaries]
        if self.moments is not None:
            number, mean, m2 = self.moments
            parts.append(Summary(number, mean.real, mean.imag, m2))
        return pooled(parts)


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
    >>> gauge.values(gauge.take())
    {'activation_variance/0': 4.666666666666667, 'activation_max/0': 6.0}
    """

    def __init__(
        self,
        series: dict[str, str],
        transfers: Transfers | None = None,
        bounds: Bounds | None = None,
        unit_dim: Callable[[Tensor], int] | None = None,
    ) -> None:
        self.lean = set(series.values()) <= set(LEAN)
        self._of_moments = [(tag, LEAN[name]) for tag, name in series.items() if name in LEAN]
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
        self._alive: Tensor | None = None  # for each unit, whether it was ever not zero
        self._state: Tensor | None = None  # what compiled graphs write to
        self.traced = False  # whether compiled graphs write to it

    def add(self, values: Tensor) -> None:
        """Pool `values` with what came before."""
        if self.lean and self._is_here(values):
            self.pool(fast.moments(values))
        else:
            self._send(summarize(values, self._bounds, only_moments=self.lean))
            if self._follows_units:
                self._follow(values.detach())

    def pool(self, moments: Moments) -> None:
        """Pool the moments of some values with what came before."""
        self._moments = moments if self._moments is None else fast.merged(self._moments, moments)

    def prepare(self, device: torch.device) -> None:
        """Make room on `device` for what compiled graphs will pool."""
        if self._state is not None and self._state.device == device:
            return  # graphs of an earlier fit go on writing to it
        dtype = torch.float32 if device.type == "mps" else torch.float64
        self._state = torch.tensor(Summary(), dtype=dtype, device=device)

    def trace(self, values: Tensor) -> None:
        """Pool `values` from within a graph that is being compiled."""
        if self._state is not None and values.numel():
            part = summarize(values, self._bounds, only_moments=self.lean).to(self._state)
            self._state.copy_(torch.stack(merge(self._state.unbind(), part.unbind(), torch.minimum, torch.maximum)))
            self.traced = True

    def collect(self) -> None:
        """Take over what compiled graphs pooled."""
        if self.traced and self._state is not None:
            self._send(self._state)
            self.discard()

    def discard(self) -> None:
        """Forget what compiled graphs pooled since the last `collect`."""
        if self.traced and self._state is not None:
            self._state.copy_(torch.tensor(Summary()))

    def take(self) -> Taken | None:
        """Return what was pooled and forget it; None if there was nothing."""
        if self.traced:
            self.collect()
        moments, summaries, self._moments = self._moments, self._summaries, None
        if summaries:
            self._summaries = []
        elif moments is None:
            return None
        return Taken(moments, summaries, self._take_dead())

    def values(self, taken: Taken) -> dict[str, float]:
        """Return tag -> value; nothing if all that was pooled was empty."""
        moments, summary = taken.moments, None
        if moments is None or taken.summaries or self._of_summary:
            summary = taken.summary()
            moments = summary.moments
        if not moments[0]:
            return {}
        values = {tag: formula(moments) for tag, formula in self._of_moments}
        if summary is not None:
            values.update((tag, formula(summary)) for tag, formula in self._of_summary)
            if taken.dead is not None:
                values[self._dead_tag] = taken.dead()[0]
        return values

    def _follow(self, values: Tensor) -> None:
        """Note which units of `values` are not zero everywhere."""
        if self._unit_dim is None or values.ndim == 0 or not values.numel():
            return
        alive = (values != 0).movedim(self._unit_dim(values), 0).flatten(1).any(1)
        same = self._alive is not None and self._alive.shape == alive.shape
        self._alive = self._alive | alive if same and self._alive is not None else alive

    def _take_dead(self) -> Sent | None:
        if self._alive is None:
            return None
        share, self._alive = 1 - self._alive.double().mean().reshape(1), None
        if self._transfers is None or self._is_here(share):
            return share.tolist
        return self._transfers(share.device).put(share)

    @staticmethod
    def _is_here(values: Tensor) -> bool:
        """Return whether asking for numbers waits for no device."""
        return values.is_cpu

    def _send(self, row: Tensor) -> None:
        if self._transfers is None or self._is_here(row):
            self._summaries.append(Summary(*row.tolist()))
        else:
            self._summaries.append(self._transfers(row.device).put(row))
