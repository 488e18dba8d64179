"""Moments and energies of float32 values in memory, in one pass compiled by Numba.

One call takes the place of several of BLAS or torch, and float64 sums of deviations from the first value cancel
nowhere. Numba is optional (`pip install lightning-init[fast]`); importing this module compiles, or loads what an
earlier process has compiled from Numba's cache, beside this file or in the user's cache directory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numba import carray, config, njit, types
from numba.extending import intrinsic

_Function = TypeVar("_Function", bound=Callable[..., object])

if config.DISABLE_JIT:
    raise ImportError("NUMBA_DISABLE_JIT is set")


def _compiled(signature: str, **options: Any) -> Callable[[_Function], _Function]:  # noqa: ANN401 (Numba's own options)
    """Compile a function for one signature; keep the outcome on disk, where there is a place for it."""

    def compiled(function: _Function) -> _Function:
        made: _Function
        try:
            made = njit(signature, cache=True, **options)(function)
        except Exception:  # noqa: BLE001 (of many kinds: no place for a cache, one that is damaged or of other versions)
            made = njit(signature, **options)(function)
        return made

    return compiled


@intrinsic
def _floats(typing: Any, address: Any) -> Any:  # noqa: ANN401 (Numba's own types)
    """Return the pointer to float32 at an address."""
    del typing, address
    return types.CPointer(types.float32)(types.int64), _cast


@intrinsic
def _doubles(typing: Any, address: Any) -> Any:  # noqa: ANN401 (Numba's own types)
    """Return the pointer to float64 at an address."""
    del typing, address
    return types.CPointer(types.float64)(types.int64), _cast


@intrinsic
def _integers(typing: Any, address: Any) -> Any:  # noqa: ANN401 (Numba's own types)
    """Return the pointer to int64 at an address."""
    del typing, address
    return types.CPointer(types.int64)(types.int64), _cast


def _cast(context: Any, builder: Any, signature: Any, values: Any) -> Any:  # noqa: ANN401 (Numba's own types)
    return builder.inttoptr(values[0], context.get_value_type(signature.return_type))


@_compiled("UniTuple(float64, 2)(int64, int64)", fastmath={"reassoc", "contract"})  # sums in any order
def _moments(address: int, size: int) -> tuple[float, float]:
    """Return the mean of `size` float32 at `address`, and the sum of their squared deviations from it."""
    values = carray(_floats(address), size)
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


@_compiled("void(int64, int64, int64)")  # with the GIL: several threads may run a layer, and pool into its row
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
    pooled = carray(_doubles(row), 4)
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


@_compiled("void(int64, int64, int64, int64)", nogil=True)
def pool_each(count: int, addresses: int, sizes: int, rows: int) -> None:
    """Do the same for `count` tensors, each with a row of its own; the arguments of each lie at these addresses."""
    address, size, row = (
        carray(_integers(addresses), count),
        carray(_integers(sizes), count),
        carray(_integers(rows), count),
    )
    for i in range(count):
        pool(address[i], size[i], row[i])


@_compiled("void(int64, int64, int64, int64)", nogil=True, fastmath={"reassoc", "contract"})
def energies(count: int, addresses: int, sizes: int, found: int) -> None:
    """Write the sum of the squares of each of `count` tensors, float64, to the address `found`."""
    address, size = carray(_integers(addresses), count), carray(_integers(sizes), count)
    sums = carray(_doubles(found), count)
    for i in range(count):
        total = 0.0
        if address[i] != 0:
            values = carray(_floats(address[i]), size[i])
            quarter = size[i] // 4
            for j in range(quarter):
                a, b = np.float64(values[j]), np.float64(values[j + quarter])
                c, d = np.float64(values[j + 2 * quarter]), np.float64(values[j + 3 * quarter])
                total += a * a + b * b + c * c + d * d
            for j in range(4 * quarter, size[i]):
                rest = np.float64(values[j])
                total += rest * rest
        sums[i] = total
