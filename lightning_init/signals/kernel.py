"""One pass over float32 values in memory, compiled by Numba: their mean and their squared deviations, in float64.

One call takes the place of several of BLAS or torch, and float64 sums of deviations from the first value cancel
nowhere. Numba is optional: `pip install lightning-init[fast]`.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

Addresses: TypeAlias = npt.NDArray[np.int64]
Rows: TypeAlias = npt.NDArray[np.float64]


class Kernel(NamedTuple):
    """The compiled functions.

    Args:
        at: gives the mean of so many float32 at an address, and the sum of their squared deviations from it. Both are
            NaN without values or without memory, and not finite if a value is not.
        at_each: writes this for each of several addresses into the rows of an array, `(addresses, 2)`.
    """

    at: Callable[[int, int], tuple[float, float]]
    at_each: Callable[[Addresses, Addresses, Rows], None]


@cache
def compiled() -> Kernel | None:
    """Return the kernel, or None without a Numba that works here; the first call of a process compiles it.

    >>> values, kernel = np.array([1.0, 2.0, 6.0], np.float32), compiled()
    >>> kernel.at(values.ctypes.data, 3) if kernel else (3.0, 14.0)
    (3.0, 14.0)
    """
    if importlib.util.find_spec("numba") is None:
        return None
    logging.getLogger("numba").setLevel(logging.WARNING)  # a root logger of level DEBUG would print all byte code
    try:
        return _compile()
    except ImportError as error:  # it refuses a NumPy that is newer than itself
        warnings.warn(f"Numba cannot be used, so that SignalMonitor is slower than it could be: {error}", stacklevel=2)
        return None


def _compile() -> Kernel:
    from numba import carray, njit, types
    from numba.extending import intrinsic

    floats = types.CPointer(types.float32)

    @intrinsic
    def pointer(typing: Any, address: Any) -> Any:  # noqa: ANN401 (Numba's own types)
        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:  # noqa: ANN401 (the same)
            del signature
            return builder.inttoptr(values[0], context.get_value_type(floats))

        del typing, address
        return floats(types.int64), generate

    @njit("UniTuple(float64, 2)(int64, int64)", nogil=True, fastmath={"reassoc", "contract"})  # sums in any order
    def at(address: int, size: int) -> tuple[float, float]:
        if size == 0 or address == 0:
            return math.nan, math.nan
        values = carray(pointer(address), size)
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

    @njit("void(int64[::1], int64[::1], float64[:, ::1])", nogil=True)
    def at_each(addresses: Addresses, sizes: Addresses, found: Rows) -> None:
        for i in range(len(addresses)):
            found[i] = at(addresses[i], sizes[i])

    return Kernel(at, at_each)
