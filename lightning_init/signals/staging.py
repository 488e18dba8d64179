"""Staging: outputs of moderate size are set aside by the hooks and reduced together, many at a time.

In a forward pass the caches hold the model's code, not ours: reducing 4096 values in a hook costs about 20 us, of
which the arithmetic is 2. Setting a tensor aside costs a tenth of that. It is not copied: its version counter tells
whether an in-place operation has changed it since. Which gauges this happens to is learned at their first point, where
everything is reduced at once; their tensors are never set aside afterwards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from lightning_init.signals import fast

if TYPE_CHECKING:
    from lightning_init.signals.gauge import Gauge

Put: TypeAlias = "tuple[Tensor, int, Gauge]"  # a tensor, its version then, and whose it is

_SMALL = 8192  # larger tensors are reduced one by one: their cost is arithmetic
_LARGE = 1 << 16  # larger ones are reduced at once: the cache will not hold them
_ROOM = 1 << 18  # how many values are set aside at most: 1 MB
_WATCHED = 1 << 22  # how many values are watched for changes at most
_FEW = 3  # fewer tensors of one size are not worth it
_EXACT_IN_FLOAT32 = (torch.float32, torch.float16, torch.bfloat16)


class Staging:
    """Sets CPU tensors aside, and hands their moments to their gauges.

    >>> from lightning_init.signals.gauge import Gauge
    >>> staging, gauge = Staging(), Gauge({"activation_variance/0": "variance"})
    >>> for point in range(2):
    ...     print(staging.put(torch.tensor([-1.0, 1.0, -1.0, 1.0]), gauge))
    ...     staging.finish()
    False
    True
    >>> dict(gauge.values(gauge.take()))
    {'activation_variance/0': 1.0}
    """

    def __init__(self) -> None:
        self._aside: dict[int, list[Put]] = {}  # by the number of values
        self._room = _ROOM
        self._watched: list[Put] = []
        self._watching = _WATCHED
        self._scratch: Tensor | None = None

    def put(self, values: Tensor, gauge: Gauge) -> bool:
        """Set `values` aside and return True, or return False if they have to be reduced now."""
        number = values.numel()
        if number > _LARGE or not values.is_cpu or values.dtype not in _EXACT_IN_FLOAT32:
            return False
        put = values.detach(), values._version, gauge  # noqa: SLF001 (no public name; autograd's own check)
        if gauge.changes is not False:
            if gauge.changes is None and number <= self._watching:
                self._watched.append(put)
                self._watching -= number
            return False
        group = self._aside.get(number)
        if group is None:
            self._aside[number] = [put]
        else:
            group.append(put)
        self._room -= number
        if self._room < 0:
            self.flush()
        return True

    def flush(self) -> None:
        """Reduce what was set aside."""
        groups, self._aside, self._room = self._aside, {}, _ROOM
        for number, group in groups.items():
            values = [values for values, _, _ in group]
            rows = self._stacked(values) if number <= _SMALL and len(group) >= _FEW else None
            found = fast.block_moments(rows) if rows is not None else map(fast.moments, values)
            for (tensor, version, gauge), moments in zip(group, found, strict=True):
                if tensor._version == version:  # noqa: SLF001 (as above)
                    gauge.pool(moments)
                else:
                    gauge.changes = True
                    gauge.spoil()

    def finish(self) -> None:
        """Reduce what was set aside at the end of a point, and learn from what was not."""
        if self._aside:
            self.flush()
        if self._watched:
            for tensor, version, gauge in self._watched:
                gauge.changes = bool(gauge.changes) or tensor._version != version  # noqa: SLF001 (as above)
            self._watched, self._watching = [], _WATCHED

    def _stacked(self, values: list[Tensor]) -> Tensor | None:
        """Return the values `(len(values), n)` in float32; None if their shapes differ."""
        if self._scratch is None:
            self._scratch = torch.empty(_ROOM + _SMALL)
        shape = len(values), *values[0].shape
        try:
            rows = torch.stack(values, out=self._scratch[: len(values) * values[0].numel()].view(shape))
        except RuntimeError:
            return None
        return rows.flatten(1)
