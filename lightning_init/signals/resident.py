"""Resident tensors: parameters that optimizers change in place, so that views of them are made once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from lightning_init.signals import fast
from lightning_init.signals.statistics import Moments


class Resident:
    """Gives the moments of the same tensors again and again.

    Args:
        tensors: on the CPU. One that is given other data is found where they are.

    >>> import torch
    >>> weight = torch.nn.Parameter(torch.tensor([1.0, 2.0, 6.0]))
    >>> resident = Resident([weight])
    >>> resident.moments()
    [(3, 3.0, 14.0)]
    >>> weight.data = torch.zeros(2)
    >>> resident.moments()
    [(2, 0.0, 0.0)]
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._tensors = tensors
        self._places: list[tuple[int, int]] = []
        self._parts: list[fast.Parts] = []

    def moments(self) -> list[Moments]:
        """Return the moments of each tensor."""
        places = [(tensor.data_ptr(), tensor.numel()) for tensor in self._tensors]
        if places != self._places:
            self._places, self._parts = places, [fast.parts_of(tensor) for tensor in self._tensors]
            if any(_address(parts) != place for parts, (place, _) in zip(self._parts, places, strict=True)):
                self._places, self._parts = [], []  # some have no view: half precision, complex
                return [fast.moments(tensor) for tensor in self._tensors]
        return [
            fast.moments_of(parts) or fast.moments(tensor)
            for parts, tensor in zip(self._parts, self._tensors, strict=True)
        ]


def _address(parts: fast.Parts) -> int:
    return parts.ctypes.data if isinstance(parts, np.ndarray) else parts[0].data_ptr()
