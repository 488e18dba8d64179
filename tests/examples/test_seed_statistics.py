"""Statistics over a handful of seeds: intervals against all resamples, means against scipy, improvements by hand."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from examples import statistics


def exact_interval(values, confidence=0.95):
    """Percentile bootstrap without sampling: the means of all n^n resamples."""
    means = sorted(np.mean(r) for r in itertools.product(values, repeat=len(values)))
    return np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2], method="inverted_cdf")


@pytest.mark.parametrize("values", [[0.1, 0.5, 0.9], [0.91, 0.93, 0.9, 0.95], [0.2, 0.2, 0.2, 0.2, 0.7]])
def test_the_interval_is_the_percentile_bootstrap(values):
    mean, low, high = statistics.interval(values)
    assert mean == pytest.approx(np.mean(values))
    spread = max(values) - min(values)
    assert (low, high) == pytest.approx(tuple(exact_interval(values)), abs=0.06 * spread)
    assert statistics.interval(values) == (mean, low, high)  # the draws are seeded


@pytest.mark.parametrize("seeds", [1, 2, 5])
def test_the_intervals_of_many_rows_are_those_of_each(seeds):
    rows = np.random.default_rng(0).random((7, seeds))
    each = [statistics.interval(row) for row in rows]
    np.testing.assert_allclose(statistics.intervals(rows), each, rtol=1e-12)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 8, 30])
def test_the_interquartile_mean_is_scipys(count):
    values = np.random.default_rng(0).normal(size=(5, count))
    np.testing.assert_array_equal(statistics.interquartile_mean(values), stats.trim_mean(values, 0.25, axis=-1))


def test_one_value_has_no_interval_and_none_has_no_mean():
    assert math.isnan(statistics.interval([0.5]).low)
    assert math.isnan(statistics.interval([math.nan]).mean)


def test_factors_per_layer():
    assert statistics.factor_per_layer([8, 4, 2, 1]) == pytest.approx(0.5)
    assert statistics.factor_per_layer([1, 0, 0]) == 0
    assert math.isnan(statistics.factor_per_layer([1, math.inf]))
    assert statistics.geometric_mean([math.nan, 4, 1]) == pytest.approx(2)


def test_improvement_is_paired():
    assert statistics.improvement([[0.5, 0.9, 0.7]], [[0.4, 0.8, 0.7]]).mean == pytest.approx(5 / 6)
    assert statistics.improvement([[0.5, math.nan]], [[0.4, 0.1]]).mean == 1


def exact_stratified(strata, statistic):
    """All ways to draw each stratum again from itself."""
    ways = itertools.product(*(itertools.product(s, repeat=len(s)) for s in strata))
    found = sorted(statistic([v for stratum in way for v in stratum]) for way in ways)
    return np.quantile(found, [0.025, 0.975], method="inverted_cdf")


def trimmed(values):
    """The interquartile mean by hand, for a number of values that four divides."""
    quarter = len(values) // 4
    return np.mean(sorted(values)[quarter : len(values) - quarter])


def test_the_interquartile_interval_is_stratified():
    strata = [[0.1, 0.2], [0.6, 0.9]]
    mean, *bounds = statistics.interquartile(strata)
    assert mean == pytest.approx(0.4)
    assert bounds == pytest.approx(exact_stratified(strata, trimmed), abs=0.01)
    pooled = statistics.interquartile([[v for s in strata for v in s]])
    assert pooled.high - pooled.low > 1.5 * (bounds[1] - bounds[0])  # what ignores the strata is wider


def test_improvement_averages_over_strata():
    found = statistics.improvement([[1, 1, 1, 1], [0, 1]], [[0, 0, 0, 0], [1, 0]])
    assert found == pytest.approx((0.75, 0.5, 1.0))
    assert math.isnan(statistics.improvement([[]], [[]]).mean)


def test_a_stratum_of_one_run_leaves_the_interval_blank():
    assert math.isnan(statistics.interquartile([[0.1, 0.2], [0.5]]).low)
