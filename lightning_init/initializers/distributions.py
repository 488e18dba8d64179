"""Distributions with given parameters: uniform, normal and the two things that are called a truncated normal.

Every random elementwise initializer is one of the functions `uniform_`, `normal_` and `truncated_normal_` with a std
of its own. On real tensors they give what the calls of `torch.nn.init` give.
On complex ones the real and the imaginary part follow the law independently, with deviations divided by sqrt 2 and the
mean real, so that `E|z - mean|^2` is the law's variance.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lightning_init.fans import Fans, Shape
from lightning_init.initializers import drawing
from lightning_init.initializers._checks import number
from lightning_init.initializers.base import Initializer

CUT = 2.0
"""Keras and JAX cut their truncated normals at this many stds of the untruncated normal."""


def uniform_(values: Tensor, low: float, high: float, generator: torch.Generator | None) -> None:
    """Fill `values` from U[low, high)."""
    _fill_(values, (low + high) / 2, lambda real: drawing.uniform_(real, low, high, generator))


def normal_(values: Tensor, mean: float, std: float, generator: torch.Generator | None) -> None:
    """Fill `values` from N(mean, std^2)."""
    _fill_(values, mean, lambda real: drawing.normal_(real, mean, std, generator))


def trunc_normal_(
    values: Tensor, mean: float, std: float, low: float, high: float, generator: torch.Generator | None
) -> None:
    """Fill `values` from N(mean, std^2) restricted to `[low, high]`, by torch's own method.

    In a tail, torch searches the whole interval with a uniform law; where that is hopeless, 8 stds are enough.
    """
    if high - low > 40 * std:
        low, high = max(low, mean - 8 * std), min(high, mean + 8 * std)
    centre = mean + std * cut_moments((low - mean) / std, (high - mean) / std)[0]
    _fill_(values, centre, lambda real: nn.init.trunc_normal_(real, mean, std, low, high, generator=generator))


def truncated_normal_(values: Tensor, mean: float, std: float, generator: torch.Generator | None) -> None:
    """Fill `values` from a normal cut at two of its stds, scaled so that `std` is the std after the cut.

    By inversion, in place: erfinv of a uniform number, as `jax.random.truncated_normal`.
    """
    limit, sigma = math.erf(CUT / math.sqrt(2)), std / CUT_STD

    def draw(real: Tensor) -> None:
        drawing.uniform_(real, -limit, limit, generator)
        real.erfinv_().mul_(sigma * math.sqrt(2)).add_(mean)
        real.clamp_(mean - CUT * sigma, mean + CUT * sigma)  # erfinv may round to just outside

    for part in drawing.in_cache(values):
        _fill_(part, mean, draw)


def _fill_(values: Tensor, mean: float, draw: Callable[[Tensor], object]) -> None:
    """Let `draw` fill a real tensor; both parts of a complex one, see above."""
    if not values.is_complex():
        draw(values)
        return
    parts = torch.view_as_real(values)
    draw(parts)
    parts.sub_(mean).mul_(math.sqrt(0.5))
    values.add_(mean)


def cut_moments(alpha: float, beta: float) -> tuple[float, float]:
    """Return mean and std of the standard normal restricted to `[alpha, beta]`.

    Johnson, Kotz & Balakrishnan 1994, Continuous univariate distributions 1, section 13.10.1.

    >>> [round(moment, 14) for moment in cut_moments(-2, 2)]
    [0.0, 0.87962566103424]
    """
    if beta - alpha < 1e-2:  # the density is flat there, and the formulas below would cancel
        return (alpha + beta) / 2, (beta - alpha) / math.sqrt(12)
    alpha, beta = max(alpha, -40.0), min(beta, 40.0)  # keeps infinity * 0 out
    mass = (math.erf(beta / math.sqrt(2)) - math.erf(alpha / math.sqrt(2))) / 2
    at_alpha, at_beta = (math.exp(-x * x / 2) / math.sqrt(2 * math.pi) / mass for x in (alpha, beta))
    mean = at_alpha - at_beta
    return mean, math.sqrt(1 + alpha * at_alpha - beta * at_beta - mean**2)


CUT_STD = cut_moments(-CUT, CUT)[1]
"""0.87962566103423978, the constant that Keras and JAX divide by."""


@dataclass(frozen=True)
class Uniform(Initializer):
    """Draw from U[low, high), as `torch.nn.init.uniform_(tensor, a=low, b=high)`.

    The std is `(high - low) / sqrt(12)`.

    >>> round(Uniform(-0.05, 0.05).target_std((3, 5), None), 4)  # Keras's random_uniform
    0.0289
    """

    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        number(self, "low")
        number(self, "high")
        if self.low > self.high:
            raise ValueError(f"low of Uniform must not be above high, got low={self.low}, high={self.high}")

    def target_std(self, shape: Shape, fans: Fans | None) -> float:
        """Return `(high - low) / sqrt(12)`."""
        del shape, fans
        return (self.high - self.low) / math.sqrt(12)

    def fill_(self, block: Tensor, fans: Fans | None, generator: torch.Generator | None) -> None:
        """Draw every entry."""
        del fans
        uniform_(block, self.low, self.high, generator)


@dataclass(frozen=True)
class _MeanAndStd(Initializer):
    """`mean` and `std` are those of the values."""

    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        number(self, "mean")
        number(self, "std", minimum=0)

    def target_std(self, shape: Shape, fans: Fans | None) -> float:
        """Return `std`."""
        del shape, fans
        return self.std


@dataclass(frozen=True)
class Normal(_MeanAndStd):
    """Draw from N(mean, std^2), as `torch.nn.init.normal_`.

    >>> Normal(std=0.02).target_std((3, 5), None)  # GPT-2's
    0.02
    """

    def fill_(self, block: Tensor, fans: Fans | None, generator: torch.Generator | None) -> None:
        """Draw every entry."""
        del fans
        normal_(block, self.mean, self.std, generator)


@dataclass(frozen=True)
class TruncNormal(Initializer):
    """Draw from N(mean, std^2) and redraw what falls outside `[a, b]`, as `torch.nn.init.trunc_normal_`.

    The bounds are absolute values, not multiples of `std`, and `std` is that of the normal *before* the cut: with the
    default bounds, `std=0.02` cuts nothing at all, and `std=1` leaves a std of 0.88. `TruncatedNormal` is the other
    kind.

    >>> round(TruncNormal(std=1.0).target_std((3, 5), None), 4)
    0.8796
    """

    mean: float = 0.0
    std: float = 1.0
    a: float = -2.0
    b: float = 2.0

    def __post_init__(self) -> None:
        number(self, "mean")
        number(self, "std", above=0)
        number(self, "a")
        number(self, "b")
        if self.a >= self.b:
            raise ValueError(f"a of TruncNormal must be below b, got a={self.a}, b={self.b}")
        if not self.a - 2 * self.std <= self.mean <= self.b + 2 * self.std:
            raise ValueError(
                "mean of TruncNormal must lie within 2 std of [a, b] (beyond, torch.nn.init.trunc_normal_ is not "
                f"reliable), got mean={self.mean}, std={self.std}, a={self.a}, b={self.b}"
            )

    def target_std(self, shape: Shape, fans: Fans | None) -> float:
        """Return the std after the cut."""
        del shape, fans
        return self.std * cut_moments((self.a - self.mean) / self.std, (self.b - self.mean) / self.std)[1]

    def fill_(self, block: Tensor, fans: Fans | None, generator: torch.Generator | None) -> None:
        """Draw every entry."""
        del fans
        trunc_normal_(block, self.mean, self.std, self.a, self.b, generator)


@dataclass(frozen=True)
class TruncatedNormal(_MeanAndStd):
    """Draw from a normal cut at two of its stds; `std` is the std *after* the cut, as in Keras's and JAX's scaling.

    The normal that is cut has `sigma = std / 0.87962566103423978`, and every value lies within `2 sigma` of `mean`.
    (Keras's own `TruncatedNormal` and `jax.nn.initializers.truncated_normal` leave out this correction; only their
    variance-scaling initializers make it. `initializers.get("keras_truncated_normal")` is theirs.)

    >>> TruncatedNormal(std=0.02).target_std((3, 5), None)
    0.02
    """

    def fill_(self, block: Tensor, fans: Fans | None, generator: torch.Generator | None) -> None:
        """Draw every entry."""
        del fans
        truncated_normal_(block, self.mean, self.std, generator)
