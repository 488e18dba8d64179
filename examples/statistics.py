"""What can be said about a handful of seeds: means, intervals, and how often one setting beats another.

Intervals are percentile bootstraps (Efron 1979), stratified as Agarwal et al. 2021 (Deep reinforcement learning at the
edge of the statistical precipice, section 4.1) do: runs are drawn again within each stratum (a model, a data set, a
depth), never across them. The draws are seeded, so the same runs give the same interval.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple, TypeAlias

import numpy as np

RESAMPLES = 9999
CONFIDENCE = 0.95
BOUNDS = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)
Strata: TypeAlias = Sequence[Sequence[float]]


class Interval(NamedTuple):
    """A mean with its 95 % bootstrap interval; NaN where the data do not allow one."""

    mean: float
    low: float
    high: float


def interval(values: Sequence[float]) -> Interval:
    """Return the mean of `values`, one per seed, with its interval; with one value there is no interval.

    >>> interval([0.5, 0.5, 0.5])
    Interval(mean=0.5, low=0.5, high=0.5)
    >>> interval([0.5])
    Interval(mean=0.5, low=nan, high=nan)
    """
    return stratified([values], plain_mean)


def interquartile(strata: Strata) -> Interval:
    """Return the mean without the lowest and the highest quarter of all values, with its interval (section 4.3 there).

    >>> interquartile([[0.0, 0.5, 0.7, 1.0]]).mean
    0.6
    """
    return stratified(strata, interquartile_mean)


def improvement(values: Strata, baseline: Strata) -> Interval:
    """Return the probability that `values` exceed `baseline`, averaged over strata, with its interval.

    Both hold one value per seed in the same order: pairs are compared, as they shared their data and dropout masks (the
    paper compares all with all). A tie counts one half; a pair with a NaN does not count.

    >>> improvement([[0.9, 0.8]], [[0.7, 0.8]]).mean
    0.75
    """
    pairs = [(np.asarray(a, dtype=float), np.asarray(b, dtype=float)) for a, b in zip(values, baseline, strict=True)]
    wins = [np.where(np.isnan(a) | np.isnan(b), np.nan, (a > b) + 0.5 * (a == b)) for a, b in pairs]
    return stratified(wins, _mean_of_means, pooled=False)


def stratified(strata: Strata, statistic: Callable[..., np.ndarray], *, pooled: bool = True) -> Interval:
    """Return `statistic` along the last axis with the interval from resampling within each stratum; NaN are left out.

    Args:
        strata: the values of each.
        statistic: of the values of all strata in one array (..., values); with `pooled=False` of one array for each.
        pooled: see there.
    """
    samples = [s for raw in strata if (s := _numbers(raw)).size]
    if not samples:
        return Interval(np.nan, np.nan, np.nan)

    def value(*drawn: np.ndarray) -> np.ndarray:
        return statistic(np.concatenate(drawn, axis=-1)) if pooled else statistic(*drawn)

    centre = float(value(*samples))
    if min(s.size for s in samples) == 1:
        return Interval(centre, np.nan, np.nan)
    if all(np.ptp(s) == 0 for s in samples):
        return Interval(centre, centre, centre)
    draws = _draws(tuple(sample.size for sample in samples))
    found = value(*(sample[draw] for sample, draw in zip(samples, draws, strict=True)))
    low, high = np.quantile(found, BOUNDS)
    return Interval(centre, float(low), float(high))


def intervals(rows: np.ndarray) -> np.ndarray:
    """Return for each of `rows` (rows, seeds), which are finite, the three numbers of its `interval`, (rows, 3).

    All rows at once, which for curves takes an eighth of the time: a mean is linear in how often a seed was drawn.

    >>> intervals(np.array([[0.5, 0.5, 0.5], [1.0, 1.0, 1.0]])).tolist()
    [[0.5, 0.5, 0.5], [1.0, 1.0, 1.0]]
    """
    seeds = rows.shape[1]
    middle = rows.mean(axis=1)
    if seeds == 1:
        return np.stack([middle, *2 * [np.full_like(middle, np.nan)]], axis=1)
    low, high = np.quantile(rows @ _shares(seeds), BOUNDS, axis=1)
    return np.stack([middle, low, high], axis=1)


@lru_cache(maxsize=64)
def _shares(size: int) -> np.ndarray:
    """Return of what share each of `size` values is in each resample (size, resamples)."""
    (draws,) = _draws((size,))
    return np.stack([(draws == i).mean(axis=1) for i in range(size)])


@lru_cache(maxsize=64)
def _draws(sizes: tuple[int, ...]) -> list[np.ndarray]:
    """Return for strata of these sizes the indices (resamples, size) that are drawn; scipy's bootstrap has no cache."""
    rng = np.random.default_rng(0)
    return [rng.integers(size, size=(RESAMPLES, size)) for size in sizes]


def interquartile_mean(values: np.ndarray) -> np.ndarray:
    """Return the mean of the middle half along the last axis.

    >>> interquartile_mean(np.array([1.0, 2.0, 3.0, 100.0]))
    np.float64(2.5)
    """
    first, last = values.shape[-1] // 4, values.shape[-1] - values.shape[-1] // 4
    return np.partition(values, (first, last - 1))[..., first:last].mean(axis=-1)  # scipy takes a second to import


def plain_mean(values: np.ndarray) -> np.ndarray:
    """Return the mean along the last axis."""
    return np.mean(values, axis=-1)


def mean(values: Sequence[float]) -> float:
    """Return the mean of `values` without NaN; NaN if nothing is left.

    >>> mean([1.0, float("nan"), 3.0])
    2.0
    """
    sample = _numbers(values)
    return float(sample.mean()) if sample.size else float("nan")


def median(values: Sequence[float]) -> float:
    """Return the median; infinite values (never) are allowed.

    >>> median([3.0, float("inf"), 5.0])
    5.0
    """
    ordered = sorted(values)
    middle = len(ordered) // 2
    if not ordered:
        return float("nan")
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def _mean_of_means(*drawn: np.ndarray) -> np.ndarray:
    return np.mean([one.mean(axis=-1) for one in drawn], axis=0)


def _numbers(values: Sequence[float]) -> np.ndarray:
    sample = np.asarray(values, dtype=float)
    return sample[~np.isnan(sample)]


def geometric_mean(values: Sequence[float]) -> float:
    """Return the geometric mean of non-negative `values`, NaN left out.

    >>> round(geometric_mean([0.1, 10.0]), 6), geometric_mean([0.0, 5.0])
    (1.0, 0.0)
    """
    sample = _numbers(values)
    if sample.size == 0:
        return float("nan")
    return 0.0 if (sample == 0).any() else float(np.exp(np.log(sample).mean()))


def factor_per_layer(profile: Sequence[float]) -> float:
    """Return by what a signal is multiplied from layer to layer: 10 ** (slope of log10(profile) over depth).

    A signal that is exactly 0 somewhere has the factor 0; NaN stands for fewer than two layers or a value not finite.

    >>> round(factor_per_layer([1.0, 0.5, 0.25]), 6)
    0.5
    """
    signal = np.asarray(profile, dtype=float)
    if signal.size < 2 or not np.isfinite(signal).all():
        return float("nan")
    if (signal <= 0).any():
        return 0.0
    depth = np.arange(signal.size) - (signal.size - 1) / 2
    return float(10.0 ** (depth @ np.log10(signal) / (depth @ depth)))
