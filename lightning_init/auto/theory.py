"""What a nonlinearity asks of the weights behind it, in a chain of given depth: `setting`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from lightning_init.gains import moments
from lightning_init.nonlinearities import Nonlinearity, resolve

Symmetry: TypeAlias = Literal["odd", "centred", "mirrored", "none"]

BUDGET = 0.3
"""Decades that the squared gradient may grow or shrink over a whole chain."""
_GRID = [10 ** (-step / 12) for step in range(49)]  # variances tried, 1 to 1e-4
_STEEP = 1.05


@dataclass(frozen=True)
class Setting:
    r"""How to keep signals in a chain of layers `W f(x)`.

    Args:
        symmetry: what W has to do: nothing (`odd`: f(-x) = -f(x)), ignore the mean of its inputs (`centred`: f is odd
            up to a constant), or see the odd part of f through pairs of units (`mirrored`).
        sigma_w: gain of the weights.
        q: variance of the pre-activations that this gain keeps.
        chi: factor on the squared gradient per layer at q.
        slope: dq'/dq at q: below 1 the variance comes back to q by itself.
    """

    symmetry: Symmetry
    sigma_w: float
    q: float
    chi: float
    slope: float


@lru_cache(maxsize=256)
def setting(nonlinearity: Nonlinearity, depth: int) -> Setting:
    r"""Return the setting with the largest variance q at which `depth` layers change the gradient within `BUDGET`.

    The effective function is $\phi = f - f(0)$ for an f that is odd up to a constant, $(f(x) - f(-x)) / \sqrt 2$ behind
    mirrored weights. An odd $\phi$ keeps the mean at 0, and $\sigma_w^2 = q / E[\phi(\sqrt q z)^2]$ keeps q; then
    $\chi = \sigma_w^2 E[\phi'^2] = 1 + O(q^2)$, so that some q serves any depth. Even functions have no odd part;
    they get the gain that keeps q = 1, as does what has no such q.

    >>> relu, tanh = setting("relu", 200), setting("tanh", 200)
    >>> relu.symmetry, round(relu.sigma_w, 6), relu.q, round(tanh.q, 3), round(tanh.chi**200, 1)
    ('mirrored', 1.414214, 1.0, 0.056, 1.9)
    >>> setting("sigmoid", 10).symmetry, setting("softplus", 1000).q, setting(torch.abs, 10).symmetry
    ('centred', 1.0, 'none')
    """
    symmetry, function = _effective(nonlinearity)
    first = _at(symmetry, function, 1.0)
    if symmetry == "none":
        return first
    settings = (_at(symmetry, function, q) for q in _GRID)
    return next((s for s in settings if abs(math.log10(s.chi)) * depth <= BUDGET and s.slope < _STEEP), first)


def _at(symmetry: Symmetry, function: Nonlinearity, q: float) -> Setting:
    at = moments(function, q)
    return Setting(symmetry, math.sqrt(q / at.square), q, q * at.slope_square / at.square, q * at.growth / at.square)


def _effective(nonlinearity: Nonlinearity) -> tuple[Symmetry, Nonlinearity]:
    """Return the symmetry of a nonlinearity and the function that matters then."""
    known = resolve(nonlinearity)
    if len(known.branches) != 1:
        return "none", nonlinearity
    function = known.branches[0][1]
    x = torch.linspace(0.01, 8.0, 200, dtype=torch.float64)
    with torch.no_grad():
        up, down, middle = function(x), function(-x), function(torch.zeros(1, dtype=torch.float64))
    scale = float((up - down).abs().max())
    if scale <= 1e-6 * float(up.abs().max()):
        return "none", nonlinearity
    if float((up + down - 2 * middle).abs().max()) <= 1e-6 * scale:
        if float(middle.abs()) <= 1e-6 * scale:
            return "odd", nonlinearity
        return "centred", _shifted(function, float(middle))
    return "mirrored", _odd_part(function)


def _shifted(function: Callable[[Tensor], Tensor], middle: float) -> Callable[[Tensor], Tensor]:
    return lambda x: function(x) - middle


def _odd_part(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda x: (function(x) - function(-x)) / math.sqrt(2)
