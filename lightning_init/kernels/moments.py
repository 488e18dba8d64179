"""Moments and energies of float32 values in memory, in one pass compiled by Numba.

One call takes the place of several of BLAS or torch. Deviations from the mean of the first values are summed in float32
over short runs, and the sums of the runs in float64: the mean is good to 1e-6 of the std so, the variance to 1e-5 of
itself. Where squares overflow or underflow, or the mean of the first lies so far from that of all that differences
would cancel, all is summed in float64.
"""

from __future__ import annotations

import numpy as np
from numba import carray

from lightning_init.kernels.memory import bits, compiled, doubles, entry, floats, integers, of_bits
from lightning_init.kernels.tensors import TORCH, find_each, lying

__all__ = ["TORCH", "add_energies", "find", "pool", "pool_each"]

_FEW = 256  # values whose mean lies near that of all
_RUN = 256  # values that are summed in float32, in four places at once
_TINY, _HUGE = 1e-30, 1e37  # sums of squares of float32 outside of this have lost digits to underflow, or overflowed
_CANCELS = 10.0  # squared distance of the means over variance above which float32 sums cost more than 1e-5
_SUMS = {"fastmath": {"reassoc", "contract"}}  # in any order


@compiled("UniTuple(float32, 2)(int64, int64, int64, float32)", **_SUMS)
def _short_sums(address: int, size: int, stride: int, origin: float) -> tuple[float, float]:
    """Return the sums of the deviations from `origin`, and of their squares, in float32, of four runs of `size` values.

    The runs begin `stride` values after each other, far enough for memory to answer side by side.
    """
    a, b = carray(floats(address), size), carray(floats(address + 4 * stride), size)
    c, d = carray(floats(address + 8 * stride), size), carray(floats(address + 12 * stride), size)
    total = squares = np.float32(0)
    for i in range(size):
        p, q, r, s = a[i] - origin, b[i] - origin, c[i] - origin, d[i] - origin
        total += p + q + r + s
        squares += p * p + q * q + r * r + s * s
    return total, squares


@compiled("UniTuple(float64, 2)(int64, int64, float64)", **_SUMS)
def _exact_sums(address: int, size: int, origin: float) -> tuple[float, float]:
    """Return the same in float64."""
    values = carray(floats(address), size)
    total = squares = 0.0
    for i in range(size):
        deviation = values[i] - origin
        total += deviation
        squares += deviation * deviation
    return total, squares


@compiled("UniTuple(float64, 2)(int64, int64, float32)")
def _sums(address: int, size: int, origin: float) -> tuple[float, float]:
    """Return the same in float32 where that is exact enough."""
    quarter = size // 4
    total, squares = _exact_sums(address + 16 * quarter, size - 4 * quarter, origin)
    for start in range(0, quarter, _RUN):
        number, first = min(_RUN, quarter - start), address + 4 * start
        some, their_squares = _short_sums(first, number, quarter, origin)
        if _TINY < their_squares < _HUGE:
            total += some
            squares += their_squares
        else:
            for run in range(4):
                more, more_squares = _exact_sums(first + 4 * quarter * run, number, origin)
                total += more
                squares += more_squares
    return total, squares


@compiled("UniTuple(float64, 2)(int64, int64)")
def _moments(address: int, size: int) -> tuple[float, float]:
    """Return the mean of `size` float32 at `address`, and the sum of their squared deviations from it."""
    origin = carray(floats(address), 1)[0]
    if size <= _FEW:
        total, squares = _exact_sums(address, size, origin)
    else:
        total, squares = _exact_sums(address, _FEW, origin)
        near = np.float32(origin + total / _FEW)
        origin = of_bits(np.int32(bits(near) & np.int32(-4096)))  # has few digits: most differences from it are exact
        total, squares = _sums(address, size, origin)
        shift = total * total / size
        if shift > _CANCELS * (squares - shift):
            total, squares = _exact_sums(address, size, origin)
            mean = origin + total / size  # of a constant its value, from which all deviations are zero
            total, squares = _exact_sums(address, size, mean)
            return mean + total / size, squares - total * total / size
    return origin + total / size, squares - total * total / size


@compiled("boolean(int64, int64, int64)")  # with the GIL: several threads may run a layer, and pool into its row
def pool_one(functions: int, tensor: int, row: int) -> bool:
    """Pool the values of a tensor with what came before (Chan, Golub & LeVeque 1979, eq. 2.1).

    Args:
        functions: `TORCH`.
        tensor: its `id`; as `lying` takes it.
        row: address of four float64, which are updated: number, mean (real part, imaginary part), squared deviations.

    Returns:
        Whether it is such a tensor; if not, nothing was done.
    """
    address, size = lying(functions, tensor)
    if size < 0:
        return False
    if size == 0:
        return True
    mean, m2 = _moments(address, size)
    pooled = carray(doubles(row), 4)
    before = pooled[0]
    number = before + size
    step, imag = mean - pooled[1], -pooled[2]
    if before == 0:
        pooled[1], pooled[3] = mean, m2
    else:
        pooled[1] += step * size / number
        pooled[2] += imag * size / number
        pooled[3] += m2 + (step * step + imag * imag) * before * size / number
    pooled[0] = number
    return True


@compiled("int64(int64, int64, int64, int64)")
def pool_all(functions: int, count: int, tensors: int, rows: int) -> int:
    """Do the same for `count` tensors, each with a row of its own; the `id`s and addresses lie at these addresses.

    Returns:
        How many were done, one after the other, until one was none for `lying`.
    """
    tensor, row = carray(integers(tensors), count), carray(integers(rows), count)
    for i in range(count):
        if not pool_one(functions, tensor[i], row[i]):
            return i
    return count


@compiled("void(int64, int64, int64, int64, int64, float64)", nogil=True)
def energies(count: int, addresses: int, sizes: int, owners: int, totals: int, factor: float) -> None:
    """Add the sums of squares of `count` arrays, each times `factor`, to the totals of their owners.

    Args:
        count: of the arrays.
        addresses: where theirs lie.
        sizes: where the numbers of their values lie.
        owners: where the indices of their totals lie.
        totals: where these lie, float64.
        factor: of all.
    """
    address, size, owner = (
        carray(integers(addresses), count),
        carray(integers(sizes), count),
        carray(integers(owners), count),
    )
    for i in range(count):
        if size[i] != 0:
            total = carray(doubles(totals + 8 * owner[i]), 1)
            total[0] += factor * _sums(address[i], size[i], np.float32(0))[1]


pool, pool_each, add_energies, find = entry(pool_one), entry(pool_all), entry(energies), entry(find_each)
