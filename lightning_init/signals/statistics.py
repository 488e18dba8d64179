"""Statistics of a tensor: what they are, and one exact way to get them, on the tensor's own device.

`summarize` turns a tensor into one small vector without leaving its device; `merge` pools two such vectors (calls,
micro-batches, ranks). `lightning_init.signals.fast` is the short way for the few numbers needed at every step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

_Number = TypeVar("_Number", float, Tensor)


class Summary(NamedTuple):
    """What is kept of a set of values; `m2`, `m3`, `m4` are sums of powers of the deviations from the mean.

    Args:
        number: how many values.
        mean: their mean (its real part).
        imag: imaginary part of the mean of complex values, whose `m2` is the sum of squared absolute deviations.
        m2, m3, m4: sums of the 2nd to 4th power of the deviations; `m3` and `m4` are nan for complex values.
        low, high: the smallest and largest value (absolute value, for complex values).
        zeros: how many are exactly zero.
        saturated: how many lie within 1 % of the range from either bound, where there are bounds.
        nonfinite: how many are inf or nan.
    """

    number: float = 0.0
    mean: float = 0.0
    imag: float = 0.0
    m2: float = 0.0
    m3: float = 0.0
    m4: float = 0.0
    low: float = math.inf
    high: float = -math.inf
    zeros: float = 0.0
    saturated: float = 0.0
    nonfinite: float = 0.0


def wide(values: Tensor) -> Tensor:
    """Return `values` detached, dense and in the dtype they are reduced in: float64, or float32 where there is none.

    >>> wide(torch.ones(2, dtype=torch.bfloat16)).dtype
    torch.float64
    """
    values = values.detach()
    if values.layout is torch.sparse_coo:
        values = values.coalesce().values()
    elif values.layout is not torch.strided:
        values = values.values()
    if values.is_complex():
        return values.to(torch.complex128)
    return values.to(torch.float32 if values.device.type == "mps" else torch.float64)


def summarize(values: Tensor, bounds: tuple[float, float] | None = None, *, only_moments: bool = False) -> Tensor:
    """Return the fields of a `Summary` as one vector on the device of `values`, without waiting for it.

    Args:
        values: any shape, also empty; any floating or complex dtype.
        bounds: of the nonlinearity that made them, to count what is saturated.
        only_moments: leave out what number, mean, variance and norm do not need.

    >>> Summary(*summarize(torch.tensor([1.0, 2.0, 6.0])).tolist()).m2
    14.0
    """
    values = wide(values).reshape(-1)
    if not values.numel():
        return torch.tensor(Summary(), dtype=values.real.dtype, device=values.device)
    # Shifting by a value of the set makes constants exact: their deviations are zero, not rounding errors.
    shifted = values - values[0]
    offset = shifted.mean()
    deviation = shifted - offset
    mean = values[0] + offset
    square = (deviation * deviation.conj()).real
    number = torch.full_like(square[0], values.numel())
    if only_moments:
        return _moments_only(number, mean, square.sum())
    size = values.abs() if values.is_complex() else values
    cubes = square * (math.nan if values.is_complex() else deviation)
    fields = [
        number,
        mean.real,
        _imag(mean),
        square.sum(),
        cubes.sum(),
        (cubes * deviation).real.sum(),
        size.amin(),
        size.amax(),
        (values == 0).sum(),
        _saturated(size, bounds),
        (~torch.isfinite(size)).sum(),
    ]
    return torch.stack([one.to(square.dtype) for one in fields])


def _moments_only(number: Tensor, mean: Tensor, m2: Tensor) -> Tensor:
    row = torch.zeros(len(Summary._fields), dtype=m2.dtype, device=m2.device)
    row[:4] = torch.stack([number, mean.real, _imag(mean), m2])
    return row


def _imag(mean: Tensor) -> Tensor:
    return mean.imag if mean.is_complex() else torch.zeros_like(mean)


def _saturated(values: Tensor, bounds: tuple[float, float] | None) -> Tensor:
    if bounds is None:
        return torch.zeros_like(values[0])
    margin = 0.01 * (bounds[1] - bounds[0])
    return ((values <= bounds[0] + margin) | (values >= bounds[1] - margin)).sum()


def merge(
    a: Sequence[_Number],
    b: Sequence[_Number],
    smaller: Callable[[_Number, _Number], _Number],
    larger: Callable[[_Number, _Number], _Number],
) -> list[_Number]:
    """Return the fields of the union of two sets of values, at least one of them not empty (Pebay 2008, eq. 3.1).

    Args:
        a: the fields of one `Summary`, as numbers or as tensors of no dimension.
        b: those of the other.
        smaller: `min`, or `torch.minimum` for tensors, which minds nan.
        larger: `max`, or `torch.maximum` for tensors.

    >>> merge(Summary(2, 1.5, m2=0.5), Summary(1, 6.0), min, max)[:4]
    [3, 3.0, 0.0, 14.0]
    """
    na, nb = a[0], b[0]
    n = na + nb
    real, imag = b[1] - a[1], b[2] - a[2]
    step, pairs = real / n, na * nb
    return [
        n,
        a[1] + step * nb,
        a[2] + imag / n * nb,
        a[3] + b[3] + (real * real + imag * imag) / n * pairs,
        a[4] + b[4] + real * step * step * pairs * (na - nb) + 3 * step * (na * b[3] - nb * a[3]),
        a[5]
        + b[5]
        + real * step * step * step * pairs * (na * na - pairs + nb * nb)
        + 6 * step * step * (na * na * b[3] + nb * nb * a[3])
        + 4 * step * (na * b[4] - nb * a[4]),
        smaller(a[6], b[6]),
        larger(a[7], b[7]),
        a[8] + b[8],
        a[9] + b[9],
        a[10] + b[10],
    ]


def pooled(parts: Sequence[Sequence[float]]) -> Summary:
    """Return the summary of all values that the summaries `parts` were made of."""
    total = Summary()
    for part in parts:
        if part[0]:
            total = Summary(*merge(total, part, _smaller, _larger)) if total.number else Summary(*part)
    return total


def _smaller(a: float, b: float) -> float:
    """Return the smaller, nan if either is: `min` keeps a nan only where it comes first."""
    return a if a < b or math.isnan(a) else b


def _larger(a: float, b: float) -> float:
    return a if a > b or math.isnan(a) else b
