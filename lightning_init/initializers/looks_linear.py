"""Looks-linear: isometries whose pairs of units cancel what a nonlinearity bends, so that depth does no harm."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lightning_init.fans import Fans, Layout, Shape
from lightning_init.initializers._checks import number
from lightning_init.initializers.base import Initializer
from lightning_init.initializers.identity import centre
from lightning_init.initializers.orthogonal import orthogonal_


@dataclass(frozen=True)
class LooksLinear(Initializer):
    r"""Fill with `gain / sqrt(fan_in)` times the entries of a random isometry R, mirrored where asked for.

    With `rows`, unit `i + out // 2` is the negative of unit i; with `columns`, the weights of input `i + columns` are
    those of input i, negated. A layer `[R, -R]` behind units u and -u sees `R (f(u) - f(-u))`: the odd part of the
    nonlinearity. That of relu, leaky_relu, gelu, silu and softplus is *exactly* linear, so a network of such layers is
    an orthogonal linear map at the start, whatever its depth and width, and bends as it trains.

    Balduzzi, Frean, Leary, Lewis, Ma & McWilliams 2017, The shattered gradients problem, section 5 (for relu, with
    the pairs made by CReLU; here the pairs are made by the layer before).

    Args:
        gain: root mean square of the outputs over that of the inputs.
        rows: whether the outputs are pairs (an odd one is left over, and is drawn by itself).
        columns: how many inputs have a partner `columns` further on; weights of inputs beyond 2 * columns are zero. 0:
            the inputs are no pairs.
        centred: whether every output ignores what all inputs have in common (weights of each tap add up to zero).
        middle: for convolutions: whether all but the middle tap are zero (Xiao et al. 2018): no signal is lost at
            borders.

    >>> first, last = torch.nn.Linear(4, 8, bias=False), torch.nn.Linear(8, 4, bias=False)
    >>> _ = LooksLinear(rows=True)(first.weight), LooksLinear(2**0.5, columns=4)(last.weight)
    >>> x = torch.randn(1, 4)
    >>> torch.allclose(last(first(x).relu()).norm(), x.norm())
    True
    """

    elementwise: ClassVar[bool] = False
    needs_layout: ClassVar[bool] = True

    gain: float = 1.0
    rows: bool = False
    columns: int = 0
    centred: bool = False
    middle: bool = False

    def __post_init__(self) -> None:
        number(self, "gain", minimum=0)
        if isinstance(self.columns, bool) or not isinstance(self.columns, int) or self.columns < 0:
            raise ValueError(f"columns of LooksLinear must be a whole number of at least 0, got {self.columns!r}")

    def check(self, shape: Shape, layout: Layout | None) -> None:
        """Refuse what has not enough units for its pairs."""
        super().check(shape, layout)
        outputs, inputs = shape[:2] if layout is None else layout.block_shape(layout.blocks[0], shape)[:2]
        if (self.rows and outputs < 2) or 2 * self.columns > inputs or (self.centred and inputs < 2):
            raise ValueError(f"{self} needs more units than {inputs} -> {outputs}")

    def target_std(self, shape: Shape, fans: Fans | None) -> float:
        """Return `gain / sqrt(fan_in)`, the root of the mean square."""
        del fans
        return self.gain / math.sqrt(max(math.prod(shape[1:]), 1))

    def fill_(self, block: Tensor, fans: Fans | None, generator: torch.Generator | None) -> None:
        """Draw the isometry, and mirror it."""
        del fans
        outputs, inputs = block.shape[:2]
        pairs = outputs // 2 if self.rows else 0
        drawn = block.new_zeros(outputs - pairs, self.columns or inputs, *block.shape[2:])
        for part in (drawn[:pairs], drawn[pairs:]) if pairs else (drawn,):  # the odd one: what it gets no pair sees
            taps = centre(part) if self.middle and part.ndim > 2 else part
            if len(part):
                orthogonal_(taps, 1.0, generator)
                if self.centred:
                    part -= part.mean(1, keepdim=True)
                part *= self.gain * math.sqrt(len(part)) / part.norm()
        if self.columns:
            drawn = drawn / math.sqrt(2)
            rest = drawn.new_zeros(len(drawn), inputs - 2 * self.columns, *block.shape[2:])
            drawn = torch.cat([drawn, -drawn, rest], 1)
        block.copy_(torch.cat([drawn[:pairs], -drawn[:pairs], drawn[pairs:]]) if pairs else drawn)
