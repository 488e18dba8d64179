"""Roots of functions of a variance: which q the maps of mean field theory leave as they are."""

from __future__ import annotations

import math
from collections.abc import Callable

SMALLEST_Q, LARGEST_Q, _PER_DECADE = 1e-4, 1e4, 8
NOISE = 1e-12
_FLAT = 1e-9


def is_zero_everywhere(excess: Callable[[float], float]) -> bool:
    """Return whether every variance is a root, as where a map keeps them all."""
    return all(abs(excess(q)) < _FLAT for q in (0.01, 1.0, 100.0))


def roots(excess: Callable[[float], float]) -> list[float]:
    """Return the sign changes of `excess(q)` on a logarithmic grid; rounding errors around 0 and poles are none.

    >>> [round(root, 12) for root in roots(lambda q: (q - 2) * (q - 30))]
    [2.0, 30.0]
    """
    grid = _grid()
    values = [value if abs(value := excess(q)) > NOISE else 0.0 for q in grid]
    found = []
    for i in range(1, len(grid)):
        if values[i - 1] * values[i] < 0 and math.inf not in (values[i - 1], values[i]):
            found.append(_between(excess, grid[i - 1], grid[i]))
        elif values[i] == 0 and values[i - 1] != 0 and values[i + 1 : i + 2] != [0.0]:
            found.append(grid[i])
    return found


def _between(excess: Callable[[float], float], low: float, high: float) -> float:
    """Return the root between `low` and `high` by regula falsi on log q, halving a stale end's weight (Illinois)."""
    below, above = excess(low), excess(high)
    for _ in range(100):
        middle = math.exp((math.log(low) * above - math.log(high) * below) / (above - below))
        value = excess(middle)
        if abs(value) < 1e-15 or middle in (low, high):
            break
        if value * above < 0:
            low, below = high, above
        else:
            below /= 2
        high, above = middle, value
        if abs(high / low - 1) < 1e-14:
            break
    return middle


def _grid() -> list[float]:
    decades = math.log10(LARGEST_Q / SMALLEST_Q)
    steps = round(decades * _PER_DECADE)
    return [SMALLEST_Q * 10 ** (decades * step / steps) for step in range(steps + 1)]
