"""Gaussian integrals of piecewise smooth functions, exact to about ten digits.

Plain Gauss-Hermite quadrature errs by up to 4e-3 on kinks. Here the line is cut until a polynomial of degree 15 fits
the function and its derivative on every piece, which finds kinks and jumps by bisection; then each piece is integrated
by Gauss-Legendre quadrature, which never sees a kink.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from numpy.polynomial import legendre
from torch import Tensor

from lightning_init._evaluation import Array, check_elementwise, precision, value_and_slope
from lightning_init.nonlinearities import Elementwise

Mask: TypeAlias = npt.NDArray[np.bool_]
Sampled: TypeAlias = Callable[[Array], Array]
"""Points of any shape -> values (channels, *shape)."""
Integrand: TypeAlias = Callable[[Array, Array, Array], Array]
"""z, f(sqrt(q) z), f'(sqrt(q) z) -> what to average."""

ORDER = 16
REACH = 10.0
"""Standard normal mass beyond 10 is 1.5e-23."""

_NODES, _WEIGHTS = legendre.leggauss(ORDER)
_COEFFICIENTS = legendre.legvander(_NODES, ORDER - 1) * _WEIGHTS[:, None] * (np.arange(ORDER) + 0.5)
"""Values at the nodes (.., 16) @ this = Legendre coefficients (.., 16)."""
_AT_ENDS = legendre.legvander(np.array([-1.0, 1.0]), ORDER - 1).T
"""Legendre coefficients (.., 16) @ this = values at both ends (.., 2)."""
_HAIR = 1e-7
"""Part of a panel: the nodes leave half a per cent at either end unseen, so a point a hair inside looks there too."""
_NEAR_ENDS = legendre.legvander(np.array([-1.0, 1.0]) * (1 - 2 * _HAIR), ORDER - 1).T
TOLERANCE = 1e-11
_MOST_PANELS = 1 << 13


class NotPiecewiseSmoothError(ValueError):
    """A function is rough nearly everywhere, so that cutting it at kinks leads nowhere."""


def panel_points(edges: Array) -> tuple[Array, Array]:
    """Return Gauss-Legendre points and weights (..., panels, 16) for sorted edges (..., panels + 1).

    >>> x, w = panel_points(np.array([0.0, 1.0, 3.0]))
    >>> round(float((w * x**2).sum()), 12)
    9.0
    """
    half = np.diff(edges)[..., None] / 2
    return edges[..., :-1, None] + half * (1 + _NODES), half * _WEIGHTS


def normal_density(z: Array) -> Array:
    """Return the density of N(0, 1).

    >>> x, w = panel_points(np.linspace(-REACH, REACH, 21))
    >>> round(float((w * x**4 * normal_density(x)).sum()), 10)
    3.0
    """
    density: Array = np.exp(-z * z / 2) / np.sqrt(2 * np.pi)
    return density


def resolve_panels(function: Sampled, edges: Array, tolerance: float = TOLERANCE) -> tuple[Array, Array, Array]:
    """Return finer edges such that `function` is a polynomial on every panel, the channels' scales, and the integrals.

    Panels narrower than 1e-12 of the whole are left as they are: a jump sits inside. The scale (channels,) is the root
    mean square of the worst panel under a normal density; rounding noise far below it does not matter. The integrals
    (channels,) are those of the function as it is, without a density.

    Args:
        function: what to resolve, channel by channel.
        edges: sorted, the panels to begin with.
        tolerance: largest relative deviation from a polynomial of degree 15.

    Raises:
        NotPiecewiseSmoothError: if it takes more than 8192 panels at once.
    """
    spread = REACH / np.abs(edges).max()
    narrowest = 1e-12 * (edges[-1] - edges[0])
    panels = np.stack([edges[:-1], edges[1:]], axis=-1)
    done = [edges]
    scale, integral = np.zeros(1), np.zeros(1)
    while len(panels):
        samples = _Samples.of(function, panels)
        _, weights = panel_points(panels * spread)
        mass = (samples.values**2 * weights[:, 0] * normal_density(samples.points * spread)).sum(-1)
        scale = np.sqrt(np.maximum(scale**2, mass.max(-1)))
        rough = ~samples.smooth(scale, tolerance) & (panels[:, 1] - panels[:, 0] > narrowest)
        integral = integral + (samples.values * weights[:, 0])[:, ~rough].sum((1, 2)) / spread
        panels = panels[rough]
        if len(panels) > _MOST_PANELS:
            raise NotPiecewiseSmoothError(f"more than {_MOST_PANELS} pieces are rough")
        middle = panels.mean(axis=1)
        done.append(middle)
        panels = np.concatenate([np.stack([panels[:, 0], middle], -1), np.stack([middle, panels[:, 1]], -1)])
    return np.unique(np.concatenate(done)), scale, integral


@dataclass(frozen=True, eq=False)
class _Samples:
    """A function on panels: at the nodes `points (panels, 16)`, its `values (channels, panels, 16)`, `ends (.., 2)`."""

    points: Array
    values: Array
    ends: Array

    @classmethod
    def of(cls, function: Sampled, panels: Array) -> _Samples:
        points = panel_points(panels)[0][:, 0]
        near_ends = panels + _HAIR * np.diff(panels) * [1, -1]
        values = function(np.concatenate([points, near_ends], axis=-1))
        return cls(points, values[..., :ORDER], values[..., ORDER:])

    def smooth(self, scale: Array, tolerance: float) -> Mask:
        """Return on which panels (panels,) every channel is a polynomial, up to its ends."""
        size = np.maximum(np.abs(self.values).max(-1), scale[:, None])
        coefficients = self.values @ _COEFFICIENTS
        tail = np.abs(coefficients[..., -4:]).max(-1)
        missed = np.abs(coefficients @ _NEAR_ENDS - self.ends).max(-1)
        smooth: Mask = ((tail <= tolerance * size) & (missed <= 1e3 * tolerance * size)).all(0)
        return smooth


@dataclass(frozen=True, eq=False)
class Pieces:
    """Where a function is smooth: between consecutive `edges` it is a polynomial; at the `kinks` it is not smooth."""

    edges: Array
    kinks: Array


def find_pieces(function: Sampled, reach: float, tolerance: float = TOLERANCE) -> Pieces:
    """Return the pieces of `function` on [-reach, reach].

    >>> relu = lambda x: np.stack([np.maximum(x - 0.3, 0), (x > 0.3) * 1.0])
    >>> find_pieces(relu, 16.0).kinks.round(10).tolist()
    [0.3]
    """
    start = np.linspace(-reach, reach, 1 + 2 * 64 * int(np.clip(reach / 16, 1, 64)))
    edges, scale, _ = resolve_panels(function, start, tolerance)
    found = _clusters(edges, 1e-5 * (start[1] - start[0]))
    if len(found):
        edges, scale, _ = resolve_panels(function, np.union1d(start, found), tolerance)
    kinks = _kinks(function, edges, scale, 1e5 * tolerance)
    return Pieces(_merge(function, edges, kinks, scale, tolerance), kinks)


def _clusters(edges: Array, width: float) -> Array:
    """Return the middle of the narrowest panel in each run of panels narrower than `width`."""
    widths = np.diff(edges)
    narrow = np.flatnonzero(widths < width)
    runs = np.split(narrow, np.flatnonzero(np.diff(narrow) > 1) + 1) if len(narrow) else []
    best = [run[widths[run].argmin()] for run in runs]
    middles: Array = (edges[best] + edges[[index + 1 for index in best]]) / 2 if best else np.empty(0)
    return middles


def _kinks(function: Sampled, edges: Array, scale: Array, tolerance: float) -> Array:
    """Return the inner edges at which the polynomials of both sides, or their derivatives, differ."""
    points, _ = panel_points(edges)
    coefficients = function(points) @ _COEFFICIENTS  # (channels, panels, 16)
    slopes = legendre.legder(coefficients, axis=-1) * (2 / np.diff(edges))[:, None]
    differ = np.zeros(len(edges) - 2, bool)
    for polynomial in (coefficients, slopes):
        left_end, right_end = np.moveaxis(polynomial @ _AT_ENDS[: polynomial.shape[-1]], -1, 0)
        gap = np.abs(right_end[:, :-1] - left_end[:, 1:])
        size = np.maximum(np.abs(right_end[:, :-1]), scale[:, None])
        differ |= (gap > tolerance * size).any(0)
    kinks: Array = edges[1:-1][differ]
    return kinks


def _merge(function: Sampled, edges: Array, kinks: Array, scale: Array, tolerance: float) -> Array:
    """Return the edges that are needed: fewer panels make the double integrals cheap."""
    for offset in (1, 2) * 4:
        inner = edges[offset:-1:2]
        sides = np.stack([edges[offset - 1 : -2 : 2], edges[offset + 1 :: 2]], -1)
        needed = ~_Samples.of(function, sides).smooth(scale, tolerance) | np.isin(inner, kinks)
        edges = np.setdiff1d(edges, inner[~needed])
    return edges


# --- of nonlinearities ----------------------------------------------------------------------------------------------


def sampled(function: Callable[[Tensor], Tensor], label: str) -> Sampled:
    """Return the function as one that gives value and derivative, (2, *shape)."""
    return lambda x: np.stack(value_and_slope(function, x, label))


def pieces_of(function: Elementwise, branch: int, reach: float) -> Pieces:
    """Return where a branch of the nonlinearity is smooth, on at least [-reach, reach]; remembered."""
    reach = 16.0 ** max(1, math.ceil(math.log(reach, 16)))  # few different ones, so that most are remembered
    key = ("pieces", branch, reach)
    known = function.memo.get(key)
    if isinstance(known, Pieces):
        return known
    _, f = function.branches[branch]
    if function.name is None:
        check_elementwise(f, function.label)
    try:
        found = find_pieces(sampled(f, function.label), reach, max(TOLERANCE, 32 * precision(f)))
    except NotPiecewiseSmoothError as error:
        raise ValueError(f"nonlinearity {function.label} cannot be integrated: {error}") from error
    function.memo[key] = found
    return found


def normal_edges(pieces: Pieces, scale: float) -> Array:
    """Return edges on [-10, 10], at most 1 apart, that include the pieces' edges divided by `scale`."""
    return np.union1d(np.linspace(-REACH, REACH, 21), np.clip(pieces.edges / scale, -REACH, REACH))


def gaussian_mean(function: Elementwise, q: float, integrands: Sequence[Integrand]) -> list[float]:
    """Return `E[integrand(z, f(x), f'(x))]`, x = sqrt(q) z, z ~ N(0, 1), for each integrand; inf where it diverges."""
    scale = math.sqrt(q)
    total = np.zeros(len(integrands))
    for branch, (probability, f) in enumerate(function.branches):
        edges = normal_edges(pieces_of(function, branch, REACH * scale), scale)
        z, weights = panel_points(edges)
        y, slope = value_and_slope(f, z * scale, function.label)
        mass = weights * normal_density(z)
        parts = np.stack([(integrand(z, y, slope) * mass).sum(-1) for integrand in integrands])
        total += probability * np.where(_diverges(parts, edges), np.inf, parts.sum(-1))
    return [float(value) for value in total]


def gaussian_pair_mean(function: Elementwise, q: float, c: float) -> tuple[float, float]:
    """Return `E[f(x) f(x')]` and `E[f'(x) f'(x')]`, where x, x' ~ N(0, q) have correlation c.

    Two different inputs meet different random slopes and dropout masks, but the same channels of a prelu.
    """
    total = np.zeros(2)
    for i, (probability, f) in enumerate(function.branches):
        for j, (other_probability, g) in enumerate(function.branches):
            if function.shared and i != j:
                continue
            weight = probability if function.shared else probability * other_probability
            pieces = [pieces_of(function, branch, REACH * math.sqrt(q)) for branch in (i, j)]
            pair = (sampled(f, function.label), sampled(g, function.label))
            total += weight * _pair_mean(pair, (pieces[0], pieces[1]), math.sqrt(q), c, alike=i == j)
    return float(total[0]), float(total[1])


def _pair_mean(
    functions: tuple[Sampled, Sampled], pieces: tuple[Pieces, Pieces], scale: float, c: float, *, alike: bool
) -> Array:
    """Return the mean of every channel's product, `x = scale (a t + b s)`, `x' = scale sign(c) (a t - b s)`.

    With t, s ~ N(0, 1) independent, `a = sqrt((1 + |c|) / 2)` and `b = sqrt((1 - |c|) / 2)` the correlation is c. For
    a given s every kink is a known t, so the inner integral over t is piecewise smooth; the outer one over s is smooth
    except where two kinks meet, and is cut there. Of two functions `alike` and c >= 0 it is even in s.
    """
    sign = math.copysign(1, c)
    a, b = math.sqrt((1 + abs(c)) / 2), math.sqrt((1 - abs(c)) / 2)
    grid = np.linspace(-REACH, REACH, 11)

    def inner(s: Array) -> Array:
        column = s.reshape(-1, 1)
        cuts = [
            (pieces[0].edges / scale - b * column) / a,
            (sign * pieces[1].edges / scale + b * column) / a,
            np.broadcast_to(grid, (column.size, len(grid))),
        ]
        t, weights = panel_points(np.sort(np.clip(np.concatenate(cuts, axis=-1), -REACH, REACH), axis=-1))
        outer = column[..., None]
        product = functions[0](scale * (a * t + b * outer)) * functions[1](scale * sign * (a * t - b * outer))
        density = normal_density(s)
        means: Array = (product * weights * normal_density(t)).sum((-2, -1)).reshape(-1, *s.shape) * density
        return means

    halved = alike and sign > 0  # of c = -0.0 it is -1
    edges = grid[grid >= 0] if halved else grid
    if b > 0:
        meeting = (pieces[0].kinks[:, None] - sign * pieces[1].kinks) / (2 * b * scale)
        edges = np.union1d(edges, meeting[(meeting > edges[0]) & (meeting < edges[-1])])
    _, _, mean = resolve_panels(inner, edges, 1e-9)
    return mean * 2 if halved else mean


def _diverges(parts: Array, edges: Array) -> Mask:
    """Return which integrals (channels, panels) sit in the far tails, or in vanishing neighbourhoods of a point."""
    sizes = np.abs(parts)
    far = np.abs(edges[:-1] + edges[1:]) / 2 > REACH - 1
    narrow = np.diff(edges) < 1e-9 * REACH
    whole = sizes.sum(-1)
    diverges: Mask = (sizes[:, far].sum(-1) > 1e-6 * whole) | (sizes[:, narrow].sum(-1) > 1e-2 * whole)
    return diverges
