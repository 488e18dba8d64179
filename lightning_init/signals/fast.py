"""The short way to mean, variance and norm of tensors on the CPU: one compiled pass, or two guarded dot products.

With Numba installed (`pip install lightning-init[fast]`) and after `prepare`, `lightning_init.kernels.moments` reads
the values once. Without, a call of NumPy's dot product costs less than a torch reduction, which counts where tensors
are small (`vdot`, since `dot` warns about overflow); where they are large, `torch.var` does not keep up with the
memory, and a dot product and a sum do: piece by piece, so that the second finds in the cache what the first brought.
`x.x/n - mean^2` cancels where the mean is much larger than the std, so such tensors, and those whose squares overflow
or underflow, go the exact way in float64.
`benchmarks/monitor.py` measures the outcome; `lightning_init.signals.statistics` holds the same for any device.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from operator import attrgetter
from types import ModuleType
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lightning_init import kernels
from lightning_init.signals.statistics import Summary

Array: TypeAlias = npt.NDArray[np.float32]
Moments: TypeAlias = tuple[float, float, float, float]
"""How many values there are, their mean (real part, imaginary part), and the sum of their squared absolute deviations
from it: the first fields of a `Summary`."""

_TYPES = {Tensor, nn.Parameter}  # others may keep their values elsewhere, as AsyncCollectiveTensor does
_ADDRESS = attrgetter("address")
_CHUNK = 8192  # above it BLAS libraries start threads of their own, beside those of torch
_PIECE = 1 << 16  # 256 KB, which a cache holds; float32 dot products err by 1e-6 here, by 2e-5 for constants
_ONES: Array = np.ones(_CHUNK, np.float32)
_CANCELS = 8.0  # mean^2 / variance above which float32 sums cost more than 1e-5
_TINY, _HUGE = 1e-30, 1e37  # sums of squares of float32 outside of this have lost digits to underflow, or overflowed
_NOTHING: Moments = (0.0, 0.0, 0.0, 0.0)
_BYTES = 4 * 8  # of a row

_kernel: ModuleType | None = None  # until `prepare`: not every use is worth the time to compile it


def prepare() -> None:
    """Have the compiled pass ready, where Numba is installed."""
    global _kernel
    _kernel = kernels.load("moments")


class Table:
    """Rows of `Moments` in which tensors are pooled, and to which the kernel writes by their address.

    (An `array`, since NumPy's ways to read and clear a few numbers take longer.)

    Args:
        count: of its rows.

    >>> table = Table(2)
    >>> table.row(1).add(torch.tensor([1.0, 2.0]))
    >>> table.row(1).add(torch.tensor([6.0]))
    >>> [column.tolist() for column in table.take()]
    [[0.0, 3.0], [0.0, 3.0], [0.0, 0.0], [0.0, 14.0]]
    """

    def __init__(self, count: int) -> None:
        self.numbers = array("d", bytes(_BYTES * count))
        self._cleared = self.numbers[:]

    def row(self, index: int) -> Row:
        """Return one of the rows, to be added to."""
        return Row(self, index)

    def take(self) -> list[array[float]]:
        """Return the columns: number, mean (real part, imaginary part), squared deviations; start afresh."""
        columns = [self.numbers[column::4] for column in range(4)]
        self.numbers[:] = self._cleared
        return columns


class Row:
    """One row of a table.

    Attributes:
        elsewhere: takes what is not on the CPU; None where nothing else is added.
    """

    __slots__ = ("_start", "_table", "address", "elsewhere")

    def __init__(self, table: Table, index: int) -> None:
        self._table = table
        self._start = 4 * index
        self.address = table.numbers.buffer_info()[0] + _BYTES * index
        self.elsewhere: Callable[[Tensor], None] | None = None

    def __reduce__(self) -> tuple[type[Row], tuple[Table, int]]:
        """Copies belong to a copy of the table, at another address."""
        return Row, (self._table, self._start // 4)

    def add(self, values: Tensor) -> None:
        """Pool `values`, of any shape, dtype and layout, with what came before."""
        if type(values) in _TYPES and pool(values, self.address):
            return
        if self.elsewhere is not None and not values.is_cpu:
            self.elsewhere(values)
        elif _kernel is None or values.is_complex() or values.dtype is torch.float64 or not self._pool_copy(values):
            found = _moments(values)  # first: other threads may pool in the meantime
            number, mean, imag, m2 = self._table.numbers[self._start : self._start + 4]
            pooled = merged((number, mean, imag, m2), found)
            self._table.numbers[self._start : self._start + 4] = array("d", pooled)

    def _pool_copy(self, values: Tensor) -> bool:
        return pool(torch.from_numpy(flattened(values)), self.address)


def pool(values: Tensor, address: int) -> bool:
    """Do what `Row.add` does, if one call of the kernel can; return whether it did.

    Args:
        values: of torch's own types, not of another that derives from these.
        address: of the row.
    """
    return _kernel is not None and not values.is_neg() and _kernel.pool(_kernel.TORCH, id(values), address)


def add_each(rows: Sequence[Row], tensors: Sequence[Tensor]) -> None:
    """Add each tensor to its row, for less than one at a time.

    >>> table = Table(2)
    >>> add_each([table.row(0), table.row(1)], [torch.tensor([1.0, 3.0]), torch.ones(3)])
    >>> [column.tolist() for column in table.take()]
    [[2.0, 3.0], [2.0, 1.0], [0.0, 0.0], [2.0, 0.0]]
    """
    done = 0
    if _kernel is not None and _are_tensors(tensors):
        known, places = array("q", map(id, tensors)), array("q", map(_ADDRESS, rows))
        done = _kernel.pool_each(_kernel.TORCH, len(tensors), _address(known), _address(places))
    for row, values in zip(rows[done:], tensors[done:], strict=True):
        row.add(values)


def summary(values: Tensor) -> Summary:
    """Return the moments of `values`, on the CPU; any shape, dtype and layout.

    >>> summary(torch.tensor([1.0, 2.0, 6.0])).m2
    14.0
    """
    table = Table(1)
    table.row(0).add(values)
    (number,), (mean,), (imag,), (m2,) = table.take()
    return Summary(number, mean, imag, m2)


def add_energies(tensors: Sequence[Tensor], owners: array[int], totals: array[float], factor: float = 1.0) -> None:
    """Add the sum of the squared absolute values of each tensor to one of the totals.

    A sum is inf where a value is inf and none is NaN.

    Args:
        tensors: on the CPU.
        owners: for each the index of its total.
        totals: are updated.
        factor: of each sum.

    >>> totals = array("d", [0.0, 0.0])
    >>> add_energies([torch.tensor([3.0, 4.0]), torch.tensor([2j])], array("q", [1, 1]), totals)
    >>> totals.tolist()
    [0.0, 29.0]
    """
    if _kernel is not None and _are_tensors(tensors):
        count, known = len(tensors), array("q", map(id, tensors))
        addresses, sizes = array("q", bytes(8 * count)), array("q", bytes(8 * count))
        if _kernel.find(_kernel.TORCH, count, _address(known), _address(addresses), _address(sizes)):
            _kernel.add_energies(
                count, _address(addresses), _address(sizes), _address(owners), _address(totals), factor
            )
            return
    for owner, values in zip(owners, tensors, strict=True):
        totals[owner] += factor * _energy(values)


def _address(numbers: array[int] | array[float]) -> int:
    return numbers.buffer_info()[0]


def _are_tensors(tensors: Sequence[Tensor]) -> bool:
    """Return whether the kernel may be given them; by loops inside of `map`, which take the least time."""
    return _TYPES.issuperset(map(type, tensors)) and not any(map(Tensor.is_neg, tensors))


# --- without Numba


def _moments(values: Tensor) -> Moments:
    """Return the moments of `values` by dot products, or where these are not exact enough in float64."""
    if values.is_complex():
        values = values.detach().resolve_conj()
        number, real, _, m2_real = _moments(values.real)
        _, imag, _, m2_imag = _moments(values.imag)
        return number, real, imag, m2_real + m2_imag
    return _guarded(values) or _exact(flattened(values))


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
    return (size, mean, 0.0, m2) if total * mean <= _CANCELS * m2 and _TINY < energy < _HUGE else None


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
    if type(values) in _TYPES and _is_dense(values) and not values.is_neg() and _has_memory(values):
        values = values.detach()
        if values.numel() <= _CHUNK:
            array: Array = values.numpy()
            return array
        vector = values.as_strided((values.numel(),), (1,))  # a view, of channels_last as well
    else:
        flat = flattened(values)
        if flat.size <= _CHUNK:
            return flat
        vector = torch.from_numpy(flat)
    return (vector,) if len(vector) <= _PIECE else torch.split(vector, _PIECE)


def _is_dense(values: Tensor) -> bool:
    """Return whether the values are float32 that lie in this machine's memory one after the other."""
    return (
        values.dtype is torch.float32
        and values.layout is torch.strided
        and values.is_cpu
        and (values.is_contiguous() or values.is_contiguous(memory_format=torch.channels_last))
    )


def _has_memory(values: Tensor) -> bool:
    """Return whether the memory of `values` was not given back; a view then is said to lie at its own offset."""
    return bool(values.data_ptr() and (values.storage_offset() == 0 or values.untyped_storage().nbytes()))


def flattened(values: Tensor) -> Array:
    """Return the values as a float32 or float64 vector in memory order; a view wherever possible.

    What has no memory (any more) has no values; NumPy would make up some.

    >>> flattened(torch.tensor([[1.0, 2.0], [3.0, 4.0]]).T)
    array([1., 2., 3., 4.], dtype=float32)
    """
    values = values.detach().resolve_neg()  # the imaginary part of a conjugate is a lazy negative
    if values.layout is not torch.strided:
        values = values.coalesce().values() if values.layout is torch.sparse_coo else values.values()
    if type(values) is Tensor and not _has_memory(values):
        values = values.new_empty(0)
    if values.dtype is not torch.float32 and values.dtype is not torch.float64:
        values = values.float()
    array: Array = values.numpy().ravel("K")
    return array


def _exact(flat: Array) -> Moments:
    """Return the moments by float64 deviations from the first value, so that constants have none."""
    total = _NOTHING
    if not flat.size:
        return total
    first = float(flat[0])
    with np.errstate(all="ignore"):
        for start in range(0, flat.size, _PIECE):
            part = flat[start : start + _PIECE].astype(np.float64)
            part -= first
            shift = float(part.mean())
            part -= shift
            total = merged(total, (part.size, first + shift, 0.0, float(np.vdot(part, part))))
    return total


def merged(a: Moments, b: Moments) -> Moments:
    """Return the moments of the union of two sets (Chan, Golub & LeVeque 1979, eq. 2.1).

    >>> merged((2, 1.5, 0, 0.5), (1, 6.0, 0, 0.0))
    (3, 3.0, 0.0, 14.0)
    """
    if not a[0] or not b[0]:
        return a if a[0] else b
    number = a[0] + b[0]
    real, imag = b[1] - a[1], b[2] - a[2]
    m2 = a[3] + b[3] + (real * real + imag * imag) * a[0] * b[0] / number
    return number, a[1] + real * b[0] / number, a[2] + imag * b[0] / number, m2
