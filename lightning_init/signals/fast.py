"""The short way to mean, variance and norm of a tensor on the CPU: one compiled pass, or two guarded dot products.

With Numba installed (`pip install lightning-init[fast]`) and after `prepare`, `lightning_init.signals.kernel` reads
the values once. Without, a call of NumPy's dot product costs less than a torch reduction, which counts where tensors
are small (`vdot`, since `dot` warns about overflow); where they are large, `torch.var` does not keep up with the
memory, and a dot product and a sum do: piece by piece, so that the second finds in the cache what the first brought.
`x.x/n - mean^2` cancels where the mean is much larger than the std, so such tensors, and those whose squares overflow
or underflow, go the exact way in float64.
`benchmarks/monitor.py` measures the outcome; `lightning_init.signals.statistics` holds the same for any device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lightning_init.signals.kernel import Kernel, compiled
from lightning_init.signals.statistics import Moments

Array: TypeAlias = npt.NDArray[np.float32]

_TYPES = (Tensor, nn.Parameter)  # others may keep their values elsewhere, as AsyncCollectiveTensor does
_CHUNK = 8192  # above it BLAS libraries start threads of their own, beside those of torch
_PIECE = 1 << 16  # 256 KB, which a cache holds; float32 dot products err by 1e-6 here, by 2e-5 for constants
_ONES: Array = np.ones(_CHUNK, np.float32)
_CANCELS = 8.0  # mean^2 / variance above which float32 sums cost more than 1e-5
_TINY, _HUGE = 1e-30, 1e37  # sums of squares of float32 outside of this have lost digits to underflow, or overflowed

_kernel: Kernel | None = None  # until `prepare`: not every use is worth the time to compile it


def prepare() -> None:
    """Have the compiled pass ready, where Numba is installed; the first call of a process compiles it."""
    global _kernel
    _kernel = compiled()


def moments(values: Tensor) -> Moments:
    """Return how many values there are, their mean, and the sum of their squared absolute deviations from it.

    Args:
        values: on the CPU; any shape, dtype and layout.

    >>> moments(torch.tensor([1.0, 2.0, 6.0]))
    (3, 3.0, 14.0)
    """
    if _kernel is not None and _is_plain(values):
        found = _compiled(_kernel, values)
    elif values.is_complex():
        return _complex_moments(values)
    elif _kernel is None or values.dtype is torch.float64:
        found = _guarded(values)
    else:
        found = _compiled(_kernel, torch.from_numpy(flattened(values)))
    return _exact(flattened(values)) if found is None else found


def moments_of_each(tensors: Sequence[Tensor]) -> list[Moments]:
    """Return the moments of each tensor, for less than one at a time.

    >>> moments_of_each([torch.tensor([1.0, 2.0, 6.0]), torch.zeros(2)])
    [(3, 3.0, 14.0), (2, 0.0, 0.0)]
    """
    found = zip(tensors, _compiled_each(tensors), strict=True)
    return [moments(one) if its is None else its for one, its in found]


def energies(tensors: Sequence[Tensor]) -> list[float]:
    """Return the sum of the squared absolute values of each tensor; inf where one of them is inf and none is NaN.

    >>> energies([torch.tensor([3.0, 4.0]), torch.tensor([2j])])
    [25.0, 4.0]
    """
    found = zip(tensors, _compiled_each(tensors), strict=True)
    return [_energy(one) if its is None else its[2] + its[0] * abs(its[1]) ** 2 for one, its in found]


# --- with Numba


def _compiled(kernel: Kernel, values: Tensor) -> Moments | None:
    """Return the moments of plain values; None if they are not finite."""
    size = values.numel()
    mean, m2 = kernel.at(values.data_ptr(), size)
    return (size, mean, m2) if m2 < math.inf else None


def _compiled_each(tensors: Sequence[Tensor]) -> list[Moments | None]:
    """Return the moments of each tensor, in one call if they all are plain; None where it takes another way."""
    if _kernel is None:
        return [None] * len(tensors)
    addresses, sizes = [], []
    for one in tensors:
        if not _is_plain(one):
            return [_compiled(_kernel, each) if _is_plain(each) else None for each in tensors]
        addresses.append(one.data_ptr())
        sizes.append(one.numel())
    found = np.empty((len(sizes), 2))
    _kernel.at_each(np.array(addresses, np.int64), np.array(sizes, np.int64), found)
    rows = zip(sizes, found.tolist(), strict=True)
    return [(size, mean, m2) if m2 < math.inf else None for size, (mean, m2) in rows]


def _is_plain(values: Tensor) -> bool:
    """Return whether the values are float32 that lie in this machine's memory one after the other."""
    return (
        type(values) in _TYPES
        and values.dtype is torch.float32
        and values.is_cpu
        and values.layout is torch.strided
        and values.is_contiguous()
        and not values.is_neg()
    )


# --- without


def _guarded(values: Tensor) -> Moments | None:
    """Return the moments of real values by dot products; None if these are not exact enough."""
    parts = _parts_of(values)
    if isinstance(parts, np.ndarray):
        size, energy, total = parts.size, float(np.vdot(parts, parts)), float(np.vdot(parts, _ONES[: parts.size]))
    else:
        size, energy, total = 0, 0.0, 0.0
        for piece in parts:
            size += len(piece)
            energy += torch.dot(piece, piece).item()
            total += piece.sum().item()
    mean = total / (size or 1)
    m2 = energy - total * mean
    return (size, mean, m2) if total * mean <= _CANCELS * m2 and _TINY < energy < _HUGE else None


def _energy(values: Tensor) -> float:
    if values.is_complex():
        values = torch.view_as_real(values.detach().resolve_conj())
    parts = _parts_of(values)
    if isinstance(parts, np.ndarray):
        total = float(np.vdot(parts, parts))
    else:
        total = sum(torch.dot(piece, piece).item() for piece in parts)
    if _TINY < total < _HUGE:
        return total
    wide = flattened(values).astype(np.float64)
    return float(np.vdot(wide, wide))


def _parts_of(values: Tensor) -> Array | Sequence[Tensor]:
    """Return real values as one short array, or as vectors that a cache holds; views wherever possible."""
    if _is_plain(values) and values.data_ptr():
        values = values.detach()
        if values.numel() <= _CHUNK:
            array: Array = values.numpy()
            return array
        vector = values.view(-1)
    else:
        flat = flattened(values)
        if flat.size <= _CHUNK:
            return flat
        vector = torch.from_numpy(flat)
    return (vector,) if len(vector) <= _PIECE else torch.split(vector, _PIECE)


def flattened(values: Tensor) -> Array:
    """Return the values as a float32 or float64 vector in memory order; a view wherever possible.

    What has no memory (any more) has no values; NumPy would make up some.

    >>> flattened(torch.tensor([[1.0, 2.0], [3.0, 4.0]]).T)
    array([1., 2., 3., 4.], dtype=float32)
    """
    values = values.detach().resolve_neg()  # the imaginary part of a conjugate is a lazy negative
    if values.layout is not torch.strided:
        values = values.coalesce().values() if values.layout is torch.sparse_coo else values.values()
    if type(values) is Tensor and values.data_ptr() == 0:
        values = values.new_empty(0)
    if values.dtype is not torch.float32 and values.dtype is not torch.float64:
        values = values.float()
    array: Array = values.numpy().ravel("K")
    return array


def _exact(flat: Array) -> Moments:
    """Return the moments by float64 deviations from the first value, so that constants have none."""
    total: Moments = (0, 0.0, 0.0)
    if not flat.size:
        return total
    first = float(flat[0])
    with np.errstate(all="ignore"):
        for start in range(0, flat.size, _PIECE):
            part = flat[start : start + _PIECE].astype(np.float64)
            part -= first
            shift = float(part.mean())
            part -= shift
            total = merged(total, (part.size, first + shift, float(np.vdot(part, part))))
    return total


def _complex_moments(values: Tensor) -> Moments:
    values = values.detach().resolve_conj()
    n, real, m2_real = moments(values.real)
    _, imag, m2_imag = moments(values.imag)
    return n, complex(real.real, imag.real), m2_real + m2_imag


def merged(a: Moments, b: Moments) -> Moments:
    """Return the moments of the union of two sets (Chan, Golub & LeVeque 1979, eq. 2.1).

    >>> merged((2, 1.5, 0.5), (1, 6.0, 0.0))
    (3, 3.0, 14.0)
    """
    n = a[0] + b[0]
    if n == 0:
        return a
    delta = b[1] - a[1]
    return n, a[1] + delta * b[0] / n, a[2] + b[2] + abs(delta) ** 2 * a[0] * b[0] / n
