"""What one layer does to the variance, the correlation of two inputs, and the gradient."""

from __future__ import annotations

import math

from lightning_init._quadrature import gaussian_pair_mean
from lightning_init.gains import moments
from lightning_init.nonlinearities import Nonlinearity, resolve

NO_VARIANCE = 1e-30
"""Variance that stands for the limit q -> 0."""


def variance_map(nonlinearity: Nonlinearity, q: float, *, sigma_w: float, sigma_b: float = 0.0) -> float:
    r"""Return the variance after one layer, $\sigma_w^2 E[f(\sqrt q z)^2] + \sigma_b^2$.

    >>> round(variance_map("relu", 3.0, sigma_w=2**0.5), 12)
    3.0
    """
    check(sigma_w, sigma_b)
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
    check(sigma_w)
    return sigma_w**2 * moments(nonlinearity, q).growth


def chi(nonlinearity: Nonlinearity, q: float, *, sigma_w: float) -> float:
    r"""Return $\chi = \sigma_w^2 E[f'(\sqrt q z)^2]$, by which a layer multiplies the squared gradient.

    It is also the slope of the correlation map at c = 1 of a continuous f: above 1 (chaos) two nearly equal inputs
    part, below 1 (order) they merge.

    >>> round(chi("tanh", 1e-9, sigma_w=1.0), 6), round(chi("relu", 5.0, sigma_w=2**0.5), 6)
    (1.0, 1.0)
    """
    check(sigma_w)
    return sigma_w**2 * moments(nonlinearity, q).slope_square


def correlation_map(nonlinearity: Nonlinearity, c: float, q: float, *, sigma_w: float, sigma_b: float = 0.0) -> float:
    """Return the correlation after one layer of two inputs with correlation c and variance q.

    >>> round(correlation_map("relu", 0.0, 1.0, sigma_w=2**0.5), 6)  # 1 / pi: Cho & Saul 2009
    0.31831
    """
    check(sigma_w, sigma_b, c)
    product, _ = gaussian_pair_mean(resolve(nonlinearity), q, c)
    return (sigma_w**2 * product + sigma_b**2) / variance_map(nonlinearity, q, sigma_w=sigma_w, sigma_b=sigma_b)


def correlation_slope(nonlinearity: Nonlinearity, c: float, q: float, *, sigma_w: float) -> float:
    r"""Return $\sigma_w^2 E[f'(u) f'(u')]$: at a fixed point q, and if f is continuous, the correlation map's slope.

    >>> round(correlation_slope("relu", 0.0, 1.0, sigma_w=2**0.5), 6)
    0.5
    """
    check(sigma_w, c=c)
    return sigma_w**2 * gaussian_pair_mean(resolve(nonlinearity), q, c)[1]


def vanishes_at_zero(nonlinearity: Nonlinearity) -> bool:
    """Whether f(0) = 0, seen as E[f^2] shrinking with q."""
    return moments(nonlinearity, NO_VARIANCE).square < math.sqrt(NO_VARIANCE)


def check(sigma_w: float, sigma_b: float = 0.0, c: float = 0.0) -> None:
    """Raise ValueError unless `sigma_w` and `sigma_b` can be stds, `sigma_w` not 0, and `c` a correlation."""
    if not 0 < sigma_w < math.inf:
        raise ValueError(f"sigma_w must be positive and finite, got {sigma_w}")
    if not 0 <= sigma_b < math.inf:
        raise ValueError(f"sigma_b must be finite and not negative, got {sigma_b}")
    if not -1 <= c <= 1:
        raise ValueError(f"c must be a correlation in [-1, 1], got {c}")
