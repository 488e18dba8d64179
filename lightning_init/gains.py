"""Gains: what a weight's std is multiplied by so that a nonlinearity keeps the variance of the signal.

For z ~ N(0, 1), `forward = 1 / sqrt(E[f(z)^2])` keeps the second moment of the activations and
`backward = 1 / sqrt(E[f'(z)^2])` that of the gradients (He et al. 2015, eq. 7 and 14, for any f). `exact` integrates;
`gain` keeps torch's conventions for the names that `torch.nn.init.calculate_gain` knows, and is exact for the rest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch

from lightning_init._quadrature import Integrand, gaussian_mean
from lightning_init.nonlinearities import Elementwise, Nonlinearity, resolve

Direction: TypeAlias = Literal["forward", "backward"]


@dataclass(frozen=True)
class Gains:
    """What a nonlinearity f does to z ~ N(0, 1).

    Args:
        forward: `1 / sqrt(E[f^2])`.
        backward: `1 / sqrt(E[f'^2])`; inf where the derivative is zero everywhere (steps), 0 where its square is not
            integrable. f' is what autograd passes on, so a jump counts nothing.
        gamma: `1 / std(f)`, keeps the variance of f(z) itself at 1 (Brock et al. 2021, scaled weight standardization).
        chi: `E[f'^2] / E[f^2]`, by which the squared gradient grows per layer if the forward gain is used.
        slope: dq'/dq at q = 1 of the variance map under the forward gain. Above 1 the fixed point q = 1 repels: the
            exact forward gain is unstable in depth.
        mean: `E[f]`.
    """

    forward: float
    backward: float
    gamma: float
    chi: float
    slope: float
    mean: float


@dataclass(frozen=True)
class Moments:
    """Moments of f(x) for x ~ N(0, q): `E[f]`, `E[f^2]`, `E[f'^2]`, and d E[f^2] / dq."""

    mean: float
    square: float
    slope_square: float
    growth: float


def moments(nonlinearity: Nonlinearity, q: float = 1.0) -> Moments:
    """Return the moments of the nonlinearity's output for an input x ~ N(0, q).

    `d E[f^2] / dq = E[f^2 (z^2 - 1)] / 2q` with x = sqrt(q) z holds for any f, jumps included.

    Raises:
        ValueError: if q is not positive or the integrals do not exist.

    >>> at_four = moments("relu", q=4.0)
    >>> round(at_four.square, 12), round(at_four.slope_square, 12), round(at_four.growth, 12)
    (2.0, 0.5, 0.5)
    """
    return _moments(resolve(nonlinearity), q)


def exact(nonlinearity: Nonlinearity, *, negative_slope: float | None = None) -> Gains:
    """Return the gains by quadrature, for torch's conventional names too.

    Args:
        nonlinearity: a name as in torch.nn.functional, a module, or an elementwise callable (tensor -> tensor).
        negative_slope: of `leaky_relu` and `prelu`, when they are given by name.

    Raises:
        ValueError, NotImplementedError, TypeError: as `gain`.

    >>> found = exact("gelu")
    >>> round(found.forward, 6), round(found.backward, 6), round(found.gamma, 6), round(found.chi, 4)
    (1.53353, 1.481114, 1.700926, 1.072)
    >>> round(exact(lambda x: x.relu() ** 2).forward, 6)  # sqrt(2/3)
    0.816497
    """
    return _exact(resolve(nonlinearity, negative_slope=negative_slope))


def gain(nonlinearity: Nonlinearity, direction: Direction = "forward", *, negative_slope: float | None = None) -> float:
    """Return the factor on the std of the weights around the nonlinearity.

    Torch's conventions hold in both directions for what `torch.nn.init.calculate_gain` knows, whether it is given by
    name, as a module or as a function: 1 for linear, conv* and sigmoid, 5/3 for tanh, 3/4 for selu. The others have
    their exact gain. rrelu takes the expectation over its random slope, dropout over its mask (`sqrt(1 - p)`).

    Args:
        nonlinearity: a name as in torch.nn.functional, a module, or an elementwise callable (tensor -> tensor).
        direction: keep the variance of activations (`forward`) or of gradients (`backward`).
        negative_slope: of `leaky_relu` and `prelu`, when they are given by name.

    Raises:
        ValueError: unknown name or direction; a callable that is constant, random, not finite, not elementwise.
        NotImplementedError: softmax, glu and others whose output is not a function of one number.
        TypeError: neither a name nor a callable, or a callable that returns no tensor.

    >>> gain("tanh") == 5 / 3, round(gain("leaky_relu", negative_slope=0.2), 6)
    (True, 1.38675)
    >>> round(gain("silu"), 6), round(gain("silu", "backward"), 6), round(gain(torch.nn.Mish()), 6)
    (1.676532, 1.62332, 1.486848)
    """
    if direction not in get_args(Direction):
        raise ValueError(f"direction must be forward or backward, got {direction!r}")
    function = resolve(nonlinearity, negative_slope=negative_slope)
    conventional = _conventional(function)
    if conventional is not None:
        return conventional
    found = getattr(_exact(function), direction)
    if not 0 < found < math.inf:
        why = "is zero everywhere" if found else "has no finite second moment"
        raise ValueError(f"nonlinearity {function.label} has no backward gain: its derivative {why}")
    return float(found)


def _conventional(function: Elementwise) -> float | None:
    """Return the gain of torch.nn.init.calculate_gain; None where it has none."""
    if function.name not in ("linear", "sigmoid", "tanh", "relu", "leaky_relu", "selu"):
        return None
    slope = function.settings.get("negative_slope")
    return float(torch.nn.init.calculate_gain(function.name, slope))  # type: ignore[arg-type]  # one of the names above


def _exact(function: Elementwise) -> Gains:
    known = function.memo.get("gains")
    if isinstance(known, Gains):
        return known
    at_one = _moments(function, 1.0)
    if at_one.square == math.inf:
        raise ValueError(f"nonlinearity {function.label} has no finite second moment, so no gain")
    variance = at_one.square - at_one.mean**2
    if variance <= 1e-14 * at_one.square:
        raise ValueError(f"nonlinearity {function.label} is constant, so no gain can keep a signal's variance")
    found = Gains(
        forward=_inverse_root(at_one.square),
        backward=_inverse_root(at_one.slope_square),
        gamma=_inverse_root(variance),
        chi=at_one.slope_square / at_one.square,
        slope=at_one.growth / at_one.square,
        mean=at_one.mean,
    )
    function.memo["gains"] = found
    return found


def _inverse_root(square: float) -> float:
    return 1 / math.sqrt(square) if square > 0 else math.inf


_INTEGRANDS: tuple[Integrand, ...] = (
    lambda _z, y, _slope: y,
    lambda _z, y, _slope: y * y,
    lambda _z, _y, slope: slope * slope,
    lambda z, y, _slope: y * y * (z * z - 1),
)


def _moments(function: Elementwise, q: float) -> Moments:
    if not 0 < q < math.inf:
        raise ValueError(f"q must be a positive, finite variance, got {q}")
    mean, square, slope_square, growth = gaussian_mean(function, q, _INTEGRANDS)
    return Moments(mean, square, slope_square, growth / (2 * q))
