"""Which statistics each signal has, and what their tags are called."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import truediv
from typing import Literal, TypeAlias

from lightning_init._suggest import closest
from lightning_init.signals.statistics import Summary

Signal: TypeAlias = Literal["weight", "activation", "gradient", "update"]


Column: TypeAlias = Sequence[float]
OfMoments: TypeAlias = Callable[[Column, Column, Column, Column], list[float]]
"""Columns of `lightning_init.signals.fast.Moments` -> a statistic of each row (`map` for the sake of its speed)."""


def _variance(number: Column, _mean: Column, _imag: Column, m2: Column) -> list[float]:
    return list(map(truediv, m2, number))


def _energy(number: Column, mean: Column, imag: Column, m2: Column) -> list[float]:
    return [m + n * (re * re + im * im) for n, re, im, m in zip(number, mean, imag, m2, strict=True)]


def _mean(_number: Column, mean: Column, imag: Column, _m2: Column) -> list[float]:
    return [math.hypot(re, im) if im else re for re, im in zip(mean, imag, strict=True)]


def _roots(of: OfMoments) -> OfMoments:
    return lambda *moments: list(map(math.sqrt, of(*moments)))


LEAN: dict[str, OfMoments] = {
    "variance": _variance,
    "mean": _mean,
    "std": _roots(_variance),
    "rms": _roots(lambda *moments: list(map(truediv, _energy(*moments), moments[0]))),
    "norm": _roots(_energy),
}
"""Statistics that need no more than the moments (`lightning_init.signals.fast.Moments`)."""


def _kurtosis(summary: Summary) -> float:
    return summary.number * summary.m4 / (summary.m2 * summary.m2) if summary.m2 else math.nan


FULL: dict[str, Callable[[Summary], float]] = {
    "min": lambda s: s.low,
    "max": lambda s: s.high,
    "max_abs": lambda s: max(abs(s.low), abs(s.high)),
    "kurtosis": _kurtosis,
    "sparsity": lambda s: s.zeros / s.number,
    "zero_fraction": lambda s: s.zeros / s.number,
    "saturation": lambda s: s.saturated / s.number,
    "nonfinite": lambda s: s.nonfinite,
}
"""The others; a normal distribution has kurtosis 3."""

_ONLY: dict[str, tuple[Signal, ...]] = {"saturation": ("activation",), "ratio": ("update",)}


def statistics_of(signal: Signal) -> list[str]:
    """Return the names of the statistics that `signal` has.

    >>> "saturation" in statistics_of("activation"), "saturation" in statistics_of("weight")
    (True, False)
    """
    return [name for name in (*LEAN, *FULL, "ratio") if signal in _ONLY.get(name, (signal,))]


@dataclass(frozen=True)
class Wanted:
    """The statistics to measure of each signal; an empty tuple leaves the signal out.

    Raises:
        TypeError: if one is not a sequence of names.
        ValueError: if a signal has no such statistic.

    >>> Wanted(weights=("varianec",))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    ValueError: weights: 'varianec' is no statistic of weights; the closest are 'variance', 'sparsity', 'min' (all: ...
    """

    weights: Sequence[str] = ("variance",)
    activations: Sequence[str] = ("variance",)
    gradients: Sequence[str] = ("norm",)
    updates: Sequence[str] = ()

    def __post_init__(self) -> None:
        for argument, signal in _ARGUMENTS.items():
            names = getattr(self, argument)
            if isinstance(names, str) or not isinstance(names, Sequence):
                raise TypeError(f'{argument} must be a sequence of statistics such as ("variance",), got {names!r}')
            valid = statistics_of(signal)
            for name in names:
                if name not in valid:
                    near = ", ".join(repr(one) for one in closest(str(name), valid))
                    raise ValueError(
                        f"{argument}: {name!r} is no statistic of {argument}; the closest are {near}"
                        f" (all: {', '.join(valid)})"
                    )
            object.__setattr__(self, argument, tuple(dict.fromkeys(names)))


_ARGUMENTS: dict[str, Signal] = {
    "weights": "weight",
    "activations": "activation",
    "gradients": "gradient",
    "updates": "update",
}
