r"""Mean field theory: what a wide random network does to variances, correlations and gradients, layer after layer.

A layer is $x^{l+1} = W f(x^l) + b$ with $W_{ij} \sim N(0, \sigma_w^2 / fan\_in)$ and $b_i \sim N(0, \sigma_b^2)$; q is
the variance of its pre-activations x, c the correlation of two inputs' pre-activations. In the limit of wide layers

- $q^{l+1} = \sigma_w^2 E[f(\sqrt{q^l} z)^2] + \sigma_b^2$: `variance_map`;
- $c^{l+1} = (\sigma_w^2 E[f(u) f(u')] + \sigma_b^2) / q^{l+1}$, u and u' ~ N(0, q) of correlation c: `correlation_map`;
- the squared gradient grows by $\chi = \sigma_w^2 E[f'(\sqrt{q} z)^2]$ per layer towards the input: `chi`.

Poole et al. 2016 (Exponential expressivity in deep neural networks through transient chaos), Schoenholz et al. 2017
(Deep information propagation), sections 2, 3 and 5. Everything is float64, by piecewise quadrature.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import mul

from lightning_init._quadrature import gaussian_pair_mean
from lightning_init._roots import LARGEST_Q, NOISE, SMALLEST_Q, is_zero_everywhere, roots
from lightning_init.gains import Moments, moments
from lightning_init.nonlinearities import Nonlinearity, resolve

_ZERO = 1e-30
"""Variance that stands for the limit q -> 0."""
_MARGIN = 1e-9
"""Slopes within this of 1 are marginal: neither attracting nor repelling to first order."""


# --- one layer ------------------------------------------------------------------------------------------------------


def variance_map(nonlinearity: Nonlinearity, q: float, *, sigma_w: float, sigma_b: float = 0.0) -> float:
    r"""Return the variance after one layer, $\sigma_w^2 E[f(\sqrt q z)^2] + \sigma_b^2$.

    >>> round(variance_map("relu", 3.0, sigma_w=2**0.5), 12)
    3.0
    """
    _check(sigma_w, sigma_b)
    return sigma_w**2 * moments(nonlinearity, q).square + sigma_b**2


def variance_slope(nonlinearity: Nonlinearity, q: float, *, sigma_w: float) -> float:
    r"""Return dq'/dq of the variance map, $\chi_\parallel$: a fixed point attracts where it is below 1.

    Equal to $\chi + \sigma_w^2 E[f''(\sqrt q z) f(\sqrt q z)]$ (Schoenholz et al. 2017, section 3), without asking
    for second derivatives.

    >>> q = 0.7
    >>> step = variance_map("tanh", q + 1e-5, sigma_w=1.5) - variance_map("tanh", q - 1e-5, sigma_w=1.5)
    >>> abs(step / 2e-5 - variance_slope("tanh", q, sigma_w=1.5)) < 1e-8
    True
    """
    _check(sigma_w)
    return sigma_w**2 * moments(nonlinearity, q).growth


def chi(nonlinearity: Nonlinearity, q: float, *, sigma_w: float) -> float:
    r"""Return $\chi = \sigma_w^2 E[f'(\sqrt q z)^2]$, by which a layer multiplies the squared gradient.

    It is also the slope of the correlation map at c = 1 of a continuous f: above 1 (chaos) two nearly equal inputs
    part, below 1 (order) they merge.

    >>> round(chi("tanh", 1e-9, sigma_w=1.0), 6), round(chi("relu", 5.0, sigma_w=2**0.5), 6)
    (1.0, 1.0)
    """
    _check(sigma_w)
    return sigma_w**2 * moments(nonlinearity, q).slope_square


def correlation_map(nonlinearity: Nonlinearity, c: float, q: float, *, sigma_w: float, sigma_b: float = 0.0) -> float:
    """Return the correlation after one layer of two inputs with correlation c and variance q.

    >>> round(correlation_map("relu", 0.0, 1.0, sigma_w=2**0.5), 6)  # 1 / pi: Cho & Saul 2009
    0.31831
    """
    _check(sigma_w, sigma_b, c)
    product, _ = gaussian_pair_mean(resolve(nonlinearity), q, c)
    return (sigma_w**2 * product + sigma_b**2) / variance_map(nonlinearity, q, sigma_w=sigma_w, sigma_b=sigma_b)


def correlation_slope(nonlinearity: Nonlinearity, c: float, q: float, *, sigma_w: float) -> float:
    r"""Return $\sigma_w^2 E[f'(u) f'(u')]$: at a fixed point q, and if f is continuous, the correlation map's slope.

    >>> round(correlation_slope("relu", 0.0, 1.0, sigma_w=2**0.5), 6)
    0.5
    """
    _check(sigma_w, c=c)
    return sigma_w**2 * gaussian_pair_mean(resolve(nonlinearity), q, c)[1]


# --- fixed points and depth scales ----------------------------------------------------------------------------------


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
    _check(sigma_w, sigma_b)

    def excess(q: float) -> float:
        return variance_map(nonlinearity, q, sigma_w=sigma_w, sigma_b=sigma_b) / q - 1

    found = [0.0] if sigma_b == 0 and _vanishes_at_zero(nonlinearity) else []
    found = [1.0] if is_zero_everywhere(excess) else found + roots(excess)
    at = [(q, max(q, _ZERO)) for q in found]
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


# --- critical initialization ----------------------------------------------------------------------------------------


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
    _check(1.0, sigma_b)

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
    return CriticalPoint(1 / math.sqrt(moments(nonlinearity, _ZERO).slope_square), 0.0, 0.0, 1.0)


def _attracts_at_zero(nonlinearity: Nonlinearity) -> bool:
    r"""Whether a small variance shrinks under $\sigma_w = 1 / |f'(0)|$ without biases."""
    if not _vanishes_at_zero(nonlinearity):
        return False
    limit = moments(nonlinearity, _ZERO).slope_square
    return moments(nonlinearity, 0.1).growth < limit * (1 - NOISE)


# --- a whole network ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layer:
    """A layer as theory sees it: `W f(x) + b`.

    Args:
        nonlinearity: the f in front of the weights; `linear` for a first layer.
        sigma_w: `std(W) * sqrt(fan_in)`.
        sigma_b: std of the biases.
        sigma_back: `std(W) * sqrt(fan_out)`; that of the forward direction when None.
    """

    nonlinearity: Nonlinearity
    sigma_w: float
    sigma_b: float = 0.0
    sigma_back: float | None = None


@dataclass(frozen=True)
class Prediction:
    """What is to be expected at a layer's output.

    Args:
        variance: second moment of the outputs.
        gradient: second moment of the loss gradient there, relative to the last layer's output.
    """

    variance: float
    gradient: float


def predict(layers: Sequence[Layer], *, q: float = 1.0) -> list[Prediction]:
    """Return, for each layer in order, the variance of its output and the squared gradient there.

    Args:
        layers: first to last.
        q: second moment of the network's input, the argument of the first layer's nonlinearity.

    >>> profile = predict([Layer("linear", 1.0)] + [Layer("tanh", 5 / 3)] * 49)  # tanh with torch's gain
    >>> round(profile[-1].variance, 2), f"{profile[0].gradient:.0e}"
    (1.18, '1e+04')
    """
    variances: list[float] = []
    factors: list[float] = []
    for layer in layers:
        _check(layer.sigma_w, layer.sigma_b)
        at = moments(layer.nonlinearity, max(q, _ZERO))
        sigma_back = layer.sigma_w if layer.sigma_back is None else layer.sigma_back
        q = layer.sigma_w**2 * at.square + layer.sigma_b**2
        variances.append(q)
        factors.append(sigma_back**2 * at.slope_square)
    gradients = list(accumulate(reversed(factors[1:]), mul, initial=1.0))[::-1]
    return [Prediction(*both) for both in zip(variances, gradients, strict=False)]


# --- helpers --------------------------------------------------------------------------------------------------------


def _check(sigma_w: float, sigma_b: float = 0.0, c: float = 0.0) -> None:
    if not 0 < sigma_w < math.inf:
        raise ValueError(f"sigma_w must be positive and finite, got {sigma_w}")
    if not 0 <= sigma_b < math.inf:
        raise ValueError(f"sigma_b must be finite and not negative, got {sigma_b}")
    if not -1 <= c <= 1:
        raise ValueError(f"c must be a correlation in [-1, 1], got {c}")


def _ratio(at: Moments) -> float:
    return at.square / at.slope_square if at.slope_square > 0 else math.inf


def _vanishes_at_zero(nonlinearity: Nonlinearity) -> bool:
    """Whether f(0) = 0, seen as E[f^2] shrinking with q."""
    return moments(nonlinearity, _ZERO).square < math.sqrt(_ZERO)
