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

_LARGE = 1 << 16  # larger ones are reduced at once: the cache will not hold them
_ROOM = 1 << 18  # how many values are set aside at most: 1 MB
_WATCHED = 1 << 22  # how many values are watched for changes at most
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
        self._aside: list[Put] = []
        self._room = _ROOM
        self._watched: list[Put] = []
        self._watching = _WATCHED

    def put(self, values: Tensor, gauge: Gauge) -> bool:
        """Set `values` aside and return True, or return False if they have to be reduced now."""
        number = values.numel()
        if not 0 < number <= _LARGE or not values.is_cpu or values.dtype not in _EXACT_IN_FLOAT32:
            return False
        put = values.detach(), values._version, gauge  # noqa: SLF001 (no public name; autograd's own check)
        if gauge.changes is not False:
            if gauge.changes is None and number <= self._watching:
                self._watched.append(put)
                self._watching -= number
            return False
        self._aside.append(put)
        self._room -= number
        if self._room < 0:
            self.flush()
        return True

    def flush(self) -> None:
        """Reduce what was set aside."""
        aside, self._aside, self._room = self._aside, [], _ROOM
        found = fast.moments_of_each([fast.flattened(values) for values, _, _ in aside])
        for (values, version, gauge), moments in zip(aside, found, strict=True):
            if values._version == version:  # noqa: SLF001 (as above)
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
