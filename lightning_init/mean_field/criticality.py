"""The weights and biases that keep gradients, and the variance with them: the edge of chaos and the critical point."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lightning_init._roots import LARGEST_Q, NOISE, SMALLEST_Q, is_zero_everywhere, roots
from lightning_init.gains import Moments, moments
from lightning_init.mean_field.maps import NO_VARIANCE, check, vanishes_at_zero
from lightning_init.nonlinearities import Nonlinearity, resolve


@dataclass(frozen=True)
class CriticalPoint:
    r"""Where gradients neither vanish nor explode: $\chi = 1$ at the fixed point q.

    Args:
        sigma_w: std of the weights times sqrt(fan_in): the gain.
        sigma_b: std of the biases.
        q: variance of the pre-activations; 0 if the signal decays towards it, no faster than 1 / depth.
        slope: dq'/dq there; below 1 the variance is kept, at 1 it is kept to first order, above 1 it runs away.
    """

    sigma_w: float
    sigma_b: float
    q: float
    slope: float


def edge_of_chaos(nonlinearity: Nonlinearity, *, sigma_b: float = 0.0) -> CriticalPoint:
    r"""Return the critical sigma_w for a given sigma_b.

    Solves $q = \sigma_b^2 + E[f^2] / E[f'^2]$, then $\sigma_w^2 = 1 / E[f'^2]$ (Hayou et al. 2019, On the impact of
    the activation function on deep neural networks training, algorithm 1). Of several solutions, the one whose
    variance is the most stable.

    Raises:
        ValueError: if there is none, as for relu with biases, for gelu and silu without, and for softplus.

    >>> found = edge_of_chaos("tanh", sigma_b=0.2)
    >>> round(found.sigma_w, 4), edge_of_chaos("tanh").sigma_w == 1, round(edge_of_chaos("relu").sigma_w, 6)
    (1.3041, True, 1.414214)
    """
    check(1.0, sigma_b)

    def excess(q: float) -> float:
        at = moments(nonlinearity, q)
        return (sigma_b**2 + _ratio(at)) / q - 1

    found = [1.0] if is_zero_everywhere(excess) else roots(excess)
    points = [_critical(nonlinearity, q, sigma_b) for q in found]
    if sigma_b == 0 and not points and _attracts_at_zero(nonlinearity):
        points = [_critical_at_zero(nonlinearity)]
    if not points:
        raise ValueError(
            f"{resolve(nonlinearity).label} has no edge of chaos at sigma_b={sigma_b:.6g}: no variance in "
            f"[{SMALLEST_Q:g}, {LARGEST_Q:g}] is kept while gradients are; try another sigma_b, or critical_point"
        )
    return min(points, key=lambda point: point.slope)


def critical_point(nonlinearity: Nonlinearity) -> CriticalPoint:
    r"""Return the point at which both gradients and deviations of the variance are kept, $\chi = \chi_\parallel = 1$.

    Roberts, Yaida & Hanin 2022, The principles of deep learning theory, sections 5.2 (scale invariant: every q, here
    1), 5.3.3 (tanh and sin: q = 0) and 5.3.4 (half-stable: GELU and SiLU at q > 0). Their $C_W$ and $C_b$ are
    $\sigma_w^2$ and $\sigma_b^2$, their $K^*$ is q.

    Raises:
        ValueError: if there is none (5.3.2: sigmoid, softplus, monomials).

    >>> found = critical_point("silu")
    >>> round(found.sigma_w**2, 6), round(found.sigma_b**2, 6), round(found.q, 5)
    (1.988005, 0.555143, 14.32017)
    """

    def excess(q: float) -> float:
        at = moments(nonlinearity, q)
        return at.growth / at.slope_square - 1 if at.slope_square > 0 else math.inf

    everywhere = is_zero_everywhere(excess)
    if not everywhere and _attracts_at_zero(nonlinearity):
        return _critical_at_zero(nonlinearity)
    for q in [1.0] if everywhere else roots(excess):
        bias_variance = q - _ratio(moments(nonlinearity, q))
        if abs(bias_variance) < NOISE * q:
            return _critical(nonlinearity, q, 0.0)
        if bias_variance > 0:
            return _critical(nonlinearity, q, math.sqrt(bias_variance))
    raise ValueError(
        f"{resolve(nonlinearity).label} has no critical point: at no variance are gradients and deviations of the "
        "variance kept together; edge_of_chaos, which asks for the gradients alone, may exist"
    )


def _critical(nonlinearity: Nonlinearity, q: float, sigma_b: float) -> CriticalPoint:
    at = moments(nonlinearity, q)
    return CriticalPoint(1 / math.sqrt(at.slope_square), sigma_b, q, at.growth / at.slope_square)


def _critical_at_zero(nonlinearity: Nonlinearity) -> CriticalPoint:
    """The limit q -> 0 without biases: `sigma_w = 1 / |f'(0)|`."""
    return CriticalPoint(1 / math.sqrt(moments(nonlinearity, NO_VARIANCE).slope_square), 0.0, 0.0, 1.0)


def _attracts_at_zero(nonlinearity: Nonlinearity) -> bool:
    r"""Whether a small variance shrinks under $\sigma_w = 1 / |f'(0)|$ without biases."""
    if not vanishes_at_zero(nonlinearity):
        return False
    limit = moments(nonlinearity, NO_VARIANCE).slope_square
    return moments(nonlinearity, 0.1).growth < limit * (1 - NOISE)


def _ratio(at: Moments) -> float:
    return at.square / at.slope_square if at.slope_square > 0 else math.inf
