"""Moments and energies of float32 values in memory, in one pass compiled by Numba.

One call takes the place of several of BLAS or torch, and float64 sums of deviations from the first value cancel
nowhere.
"""

from __future__ import annotations

import numpy as np
from numba import carray

from lightning_init.kernels.memory import compiled, doubles, floats, integers


@compiled("UniTuple(float64, 2)(int64, int64)", fastmath={"reassoc", "contract"})  # sums in any order
def _moments(address: int, size: int) -> tuple[float, float]:
    """Return the mean of `size` float32 at `address`, and the sum of their squared deviations from it."""
    values = carray(floats(address), size)
    first = np.float64(values[0])
    total = squares = 0.0
    quarter = size // 4
    for i in range(quarter):  # in four places at once, which memory answers side by side
        a, b = values[i] - first, values[i + quarter] - first
        c, d = values[i + 2 * quarter] - first, values[i + 3 * quarter] - first
        total += a + b + c + d
        squares += a * a + b * b + c * c + d * d
    for i in range(4 * quarter, size):
        rest = values[i] - first
        total += rest
        squares += rest * rest
    return first + total / size, squares - total * total / size


@compiled("void(int64, int64, int64)")  # with the GIL: several threads may run a layer, and pool into its row
def pool(address: int, size: int, row: int) -> None:
    """Pool values with what came before (Chan, Golub & LeVeque 1979, eq. 2.1).

    Args:
        address: of float32 values, one after the other; 0 for a tensor that has lost its memory and so its values.
        size: how many there are.
        row: address of four float64, which are updated: number, mean (real part, imaginary part), squared deviations.
    """
    if size == 0 or address == 0:
        return
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


@compiled("void(int64, int64, int64, int64)", nogil=True)
def pool_each(count: int, addresses: int, sizes: int, rows: int) -> None:
    """Do the same for `count` tensors, each with a row of its own; the arguments of each lie at these addresses."""
    address, size, row = (
        carray(integers(addresses), count),
        carray(integers(sizes), count),
        carray(integers(rows), count),
    )
    for i in range(count):
        pool(address[i], size[i], row[i])


@compiled("void(int64, int64, int64, int64)", nogil=True, fastmath={"reassoc", "contract"})
def energies(count: int, addresses: int, sizes: int, found: int) -> None:
    """Write the sum of the squares of each of `count` tensors, float64, to the address `found`."""
    address, size = carray(integers(addresses), count), carray(integers(sizes), count)
    sums = carray(doubles(found), count)
    for i in range(count):
        total = 0.0
        if address[i] != 0:
            values = carray(floats(address[i]), size[i])
            quarter = size[i] // 4
            for j in range(quarter):
                a, b = np.float64(values[j]), np.float64(values[j + quarter])
                c, d = np.float64(values[j + 2 * quarter]), np.float64(values[j + 3 * quarter])
                total += a * a + b * b + c * c + d * d
            for j in range(4 * quarter, size[i]):
                rest = np.float64(values[j])
                total += rest * rest
        sums[i] = total
