"""Fixed points and depth scales: published figures, and what the maps do when they are applied again and again."""

import math

import pytest

from lightning_init.gains import exact
from lightning_init.theory import correlation_map, depth_scales, variance_fixed_points, variance_map


@pytest.mark.parametrize(
    ("weight_variance", "xi_c"), [(1.0, 3.63), (1.5, 15.8), (1.7, 74.9), (2.0, 25.2), (2.5, 11.8), (4.0, 6.98)]
)
def test_depth_scales_of_tanh(weight_variance: float, xi_c: float) -> None:
    found = depth_scales("tanh", sigma_w=math.sqrt(weight_variance), sigma_b=math.sqrt(0.05))
    assert found.xi_c == pytest.approx(xi_c, rel=2e-3)
    assert (found.c == 1) == (weight_variance < 1.76095) == (found.chi < 1)


@pytest.mark.parametrize(
    ("name", "sigma_w", "sigma_b"), [("tanh", 1.2, 0.3), ("tanh", 2.0, 0.2), ("softsign", 1.5, 0.5)]
)
def test_deviations_decay_with_the_depth_scales(name: str, sigma_w: float, sigma_b: float) -> None:
    found = depth_scales(name, sigma_w=sigma_w, sigma_b=sigma_b)
    gaps = [found.c - 1e-3]
    for _ in range(3):
        gaps.append(correlation_map(name, gaps[-1], found.q, sigma_w=sigma_w, sigma_b=sigma_b))
    decay = (gaps[3] - found.c) / (gaps[2] - found.c)
    assert decay == pytest.approx(math.exp(-1 / found.xi_c), rel=3e-3)
    q = found.q + 1e-6
    for _ in range(2):
        q = variance_map(name, q, sigma_w=sigma_w, sigma_b=sigma_b)
    assert (q - found.q) / 1e-6 == pytest.approx(math.exp(-2 / found.xi_q), rel=1e-3)


def test_fixed_points_and_their_stability() -> None:
    gelu = variance_fixed_points("gelu", sigma_w=exact("gelu").forward)
    assert [(round(point.q, 6), point.stable) for point in gelu] == [(0.0, True), (1.0, False)]
    assert gelu[0].slope == pytest.approx(exact("gelu").forward ** 2 / 4)
    assert [point.q for point in variance_fixed_points("relu", sigma_w=1.3)] == [0.0]
    (biased,) = variance_fixed_points("relu", sigma_w=1.0, sigma_b=1.0)
    assert (biased.q, biased.stable) == (pytest.approx(2.0), True)
    assert variance_fixed_points("relu", sigma_w=1.5, sigma_b=1.0) == []


def test_depth_scales_need_a_stable_variance() -> None:
    with pytest.raises(ValueError, match=r"no variance above 0 is stable for tanh with sigma_w=0\.9"):
        depth_scales("tanh", sigma_w=0.9)
