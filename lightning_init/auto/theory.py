"""What a nonlinearity asks of the weights behind it, in a chain of given depth: `setting`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from lightning_init.gains import moments
from lightning_init.initializers.orthogonal import orthogonal_
from lightning_init.nonlinearities import Nonlinearity, resolve

Symmetry: TypeAlias = Literal["odd", "centred", "mirrored", "none"]
Recurrent: TypeAlias = Literal["LSTM", "GRU", "RNN"]

BUDGET = 0.3
"""Decades that the squared gradient may grow or shrink over a whole chain."""
_GRID = [10 ** (-step / 12) for step in range(73)]  # variances tried, 1 to 1e-6
_STEEP = 1.05
_WINDOWS = 200_000  # pairs of windows that `pooled` samples
_randn = partial(torch.randn, dtype=torch.float32, device="cpu")  # Lightning sets other defaults to build a model


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
    kept = (s for s in settings if 0 < s.chi < math.inf and abs(math.log10(s.chi)) * depth <= BUDGET)
    return next((s for s in kept if s.slope < _STEEP), first)


@lru_cache(maxsize=256)
def pooled(nonlinearity: Nonlinearity, symmetry: Symmetry, q: float, window: int, shared: float) -> tuple[float, float]:
    r"""Return what max pooling of f(x) multiplies the mean square by, and what neighbours have in common then.

    The values in all windows are $\sqrt q (\sqrt\rho z_0 + \sqrt{1 - \rho} z_i)$, independent standard normal but for
    the common $z_0$; the weights behind see of the largest f what `symmetry` says: of pairs the difference, of what is
    centred the deviation from the mean. Random convolutions keep $\rho$. Sampled: 4e5 windows, always the same.

    Args:
        nonlinearity: f.
        symmetry: of `setting`; "none" for weights that see f as it is.
        q: variance before f.
        window: how many values the largest is taken of.
        shared: $\rho$, from 0 (noise) to 1 (all alike, so that pooling changes nothing).

    >>> [round(pooled("relu", "mirrored", 1.0, 4, shared)[0], 1) for shared in (0.0, 0.75, 1.0)]
    [1.1, 1.7, 1.0]
    """
    known = resolve(nonlinearity)
    if len(known.branches) != 1:
        return 1.0, shared
    function = known.branches[0][1]
    generator = torch.Generator().manual_seed(0)
    common = _randn(_WINDOWS, 1, 1, generator=generator)
    own = _randn(_WINDOWS, 2, window, generator=generator)  # two windows that share no more than the common part
    x = math.sqrt(q) * (math.sqrt(shared) * common + math.sqrt(1 - shared) * own)

    def seen(x: Tensor) -> Tensor:
        with torch.no_grad():
            largest = function(x).amax(-1).double()
            if symmetry == "mirrored":
                return largest - function(-x).amax(-1)
        return largest - largest.mean() if symmetry == "centred" else largest

    after, before = seen(x), float(seen(x[..., :1]).square().mean())
    square = float(after.square().mean())
    if not (before > 0 and square > 0):
        return 1.0, shared
    return square / before, min(max(float(after.prod(-1).mean()) / square, 0.0), 1.0)


@lru_cache(maxsize=32)
def recurrent_square(kind: Recurrent, layers: int) -> float:
    """Return the mean square that a recurrent layer puts out as `auto` starts it, from inputs of mean square 1.

    Its gates make it small: sampled with 64 units after 32 steps of independent inputs, always the same.

    >>> round(recurrent_square("LSTM", 1), 2), round(recurrent_square("GRU", 1), 2)
    (0.05, 0.18)
    """
    size, generator = 64, torch.Generator().manual_seed(0)
    made: nn.RNNBase = getattr(nn, kind)(size, size, layers, device="meta")
    module = made.to_empty(device="cpu").float()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.zero_()
            for gate in parameter.chunk(len(parameter) // size) if "weight" in name else ():
                gate.normal_(std=1 / math.sqrt(size), generator=generator)
                if "weight_hh" in name:
                    orthogonal_(gate, 1.0, generator)
            if name.startswith("bias_ih") and kind == "LSTM":
                parameter[size : 2 * size] = 1.0  # the forget gate
        return float(module(_randn(32, 64, size, generator=generator))[0][-1].square().mean())


def _at(symmetry: Symmetry, function: Nonlinearity, q: float) -> Setting:
    at = moments(function, q)
    if not at.square > 0:  # hardshrink lets nothing small through
        return Setting(symmetry, 1.0, q, math.inf, math.inf)
    return Setting(symmetry, math.sqrt(q / at.square), q, q * at.slope_square / at.square, q * at.growth / at.square)


def _effective(nonlinearity: Nonlinearity) -> tuple[Symmetry, Nonlinearity]:
    """Return the symmetry of a nonlinearity and the function that matters then."""
    known = resolve(nonlinearity)
    if len(known.branches) != 1:
        return "none", nonlinearity
    function = known.branches[0][1]
    x = torch.linspace(0.01, 8.0, 200, dtype=torch.float64, device="cpu")
    with torch.no_grad():
        up, down, middle = function(x), function(-x), function(torch.zeros_like(x[:1]))
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
