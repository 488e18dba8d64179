"""The variances and correlations that layers keep, and over how many layers deviations from them die out."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lightning_init._quadrature import gaussian_pair_mean
from lightning_init._roots import is_zero_everywhere, roots
from lightning_init.mean_field.maps import (
    NO_VARIANCE,
    check,
    chi,
    correlation_slope,
    vanishes_at_zero,
    variance_map,
    variance_slope,
)
from lightning_init.nonlinearities import Nonlinearity, resolve

_MARGIN = 1e-9
"""Slopes within this of 1 are marginal: neither attracting nor repelling to first order."""


@dataclass(frozen=True)
class FixedPoint:
    """A variance that a layer keeps.

    Args:
        q: the variance; 0 where the signal dies out.
        slope: dq'/dq there.
        chi: growth of the squared gradient per layer there.
    """

    q: float
    slope: float
    chi: float

    @property
    def stable(self) -> bool:
        """Whether variances nearby come closer from layer to layer."""
        return self.slope < 1 - _MARGIN


def variance_fixed_points(nonlinearity: Nonlinearity, *, sigma_w: float, sigma_b: float = 0.0) -> list[FixedPoint]:
    """Return the fixed points of the variance map with q in [1e-4, 1e4], and q = 0 where that is one; ascending.

    Where every q is fixed (a ReLU with sigma_w^2 = 2), the one at q = 1 stands for all.

    >>> [(round(p.q, 4), p.stable) for p in variance_fixed_points("tanh", sigma_w=1.5)]
    [(0.0, False), (0.7934, True)]
    >>> [(round(p.q, 4), round(p.slope, 4)) for p in variance_fixed_points("relu", sigma_w=2**0.5)]
    [(1.0, 1.0)]
    """
    check(sigma_w, sigma_b)

    def excess(q: float) -> float:
        return variance_map(nonlinearity, q, sigma_w=sigma_w, sigma_b=sigma_b) / q - 1

    found = [0.0] if sigma_b == 0 and vanishes_at_zero(nonlinearity) else []
    found = [1.0] if is_zero_everywhere(excess) else found + roots(excess)
    at = [(q, max(q, NO_VARIANCE)) for q in found]
    return [
        FixedPoint(q, variance_slope(nonlinearity, near, sigma_w=sigma_w), chi(nonlinearity, near, sigma_w=sigma_w))
        for q, near in at
    ]


@dataclass(frozen=True)
class DepthScales:
    r"""How many layers a signal survives: deviations shrink as $e^{-l / \xi}$.

    Args:
        q: the stable variance.
        c: the stable correlation of two inputs: 1 in the ordered phase.
        xi_q: depth scale of the variance.
        xi_c: depth scale of the correlation, inf at the edge of chaos: about 6 xi_c layers can be trained.
        chi: growth of the squared gradient per layer.
    """

    q: float
    c: float
    xi_q: float
    xi_c: float
    chi: float


def depth_scales(nonlinearity: Nonlinearity, *, sigma_w: float, sigma_b: float = 0.0) -> DepthScales:
    r"""Return the depth scales, $1/\xi = -\log$ of the slopes of the two maps at their stable fixed points.

    Schoenholz et al. 2017, section 3 (the scales) and 5 (trainable up to about $6 \xi_c$). The nonlinearity is taken
    to be continuous.

    Raises:
        ValueError: if no variance is stable: it dies out, explodes, or stays where it is.

    >>> found = depth_scales("tanh", sigma_w=2.5**0.5, sigma_b=0.05**0.5)
    >>> round(found.xi_c, 1), round(found.c, 2)
    (11.8, 0.45)
    """
    points = variance_fixed_points(nonlinearity, sigma_w=sigma_w, sigma_b=sigma_b)
    stable = [point for point in points if point.stable and point.q > 0]
    if not stable:
        raise ValueError(
            f"no variance above 0 is stable for {resolve(nonlinearity).label} with sigma_w={sigma_w:.6g} and "
            f"sigma_b={sigma_b:.6g}; fixed points: {points or 'none'}"
        )
    point = stable[0]
    c = 1.0
    if point.chi > 1 + _MARGIN:
        c = _stable_correlation(nonlinearity, point.q, sigma_w, sigma_b)
    slope = point.chi if c == 1 else correlation_slope(nonlinearity, c, point.q, sigma_w=sigma_w)
    return DepthScales(point.q, c, _depth(point.slope), _depth(slope), point.chi)


def _stable_correlation(nonlinearity: Nonlinearity, q: float, sigma_w: float, sigma_b: float) -> float:
    """Newton from c = 0, which cannot overshoot: the correlation map is convex on [0, 1] (it is a power series)."""
    function = resolve(nonlinearity)
    c = 0.0
    for _ in range(60):
        product, slopes = gaussian_pair_mean(function, q, c)
        excess = (sigma_w**2 * product + sigma_b**2) / q - c
        slope = sigma_w**2 * slopes - 1
        if excess <= 1e-14 or slope >= 0:
            break
        c -= excess / slope
    return min(c, 1.0)


def _depth(slope: float) -> float:
    """Return the depth over which a factor of `slope` per layer amounts to 1/e; inf at 1."""
    if abs(slope - 1) <= _MARGIN:
        return math.inf
    return -1 / math.log(slope) if slope > 0 else 0.0
