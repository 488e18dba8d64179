"""Orthogonal: the layer keeps the length of every vector, not only on average."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import Self

from lightning_init import gains
from lightning_init.fans import Fans, Layout, Shape, torch_layout
from lightning_init.initializers._checks import number
from lightning_init.initializers.base import Initializer
from lightning_init.initializers.identity import centre
from lightning_init.nonlinearities import Nonlinearity


def orthogonal_(block: Tensor, gain: float, generator: torch.Generator | None) -> None:
    """Fill `block`, read as a matrix `(out, in * kernel)`, with `gain` times a uniformly (Haar) random isometry.

    QR of a Gaussian matrix with the signs of R's diagonal moved into Q (Mezzadri 2007, How to generate random matrices
    from the classical compact groups, section 5), on one thread on CPU: LAPACK's rounding depends on their number.
    """
    rows = block.shape[0]
    shape = (rows, block.numel() // rows)
    gaussian = block.view(shape) if block.is_contiguous() else block.new_empty(shape)
    gaussian.normal_(generator=generator)
    wide = shape[0] < shape[1]
    with one_thread():
        q, r = torch.linalg.qr(gaussian.t() if wide else gaussian)
    q *= r.diagonal().sgn()
    block.copy_((q.t() if wide else q).view(block.shape)).mul_(gain)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let the calling thread use one core; the setting is per thread, new threads inherit the last one set."""
    threads = torch.get_num_threads()
    if threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@dataclass(frozen=True)
class _Isometry(Initializer):
    elementwise: ClassVar[bool] = False
    needs_layout: ClassVar[bool] = True

    gain: float = 1.0

    def __post_init__(self) -> None:
        number(self, "gain", minimum=0)

    def with_nonlinearity(self, nonlinearity: Nonlinearity) -> Self:
        """Return the same with the gain of `nonlinearity`."""
        return replace(self, gain=gains.gain(nonlinearity))


@dataclass(frozen=True)
class Orthogonal(_Isometry):
    """Fill with `gain` times a random (semi-)orthogonal matrix, as `torch.nn.init.orthogonal_`.

    A convolution is read as the matrix `(out, in * kernel)`; gates, q/k/v and groups are orthogonal each for itself;
    complex parameters become unitary. Wide blocks have orthonormal rows, tall ones orthonormal columns.

    Saxe, McClelland & Ganguli 2014, Exact solutions to the nonlinear dynamics of learning in deep linear neural
    networks, section 3.

    >>> weight = Orthogonal()(torch.empty(3, 5))
    >>> torch.allclose(weight @ weight.T, torch.eye(3), atol=1e-6)
    True
    """

    def target_std(self, shape: Shape, fans: Fans | None) -> float:
        """Return `gain / sqrt(max(rows, columns))`, the root of the mean square."""
        del fans
        return self.gain / math.sqrt(max(shape[0], math.prod(shape[1:]), 1))

    def fill_(self, block: Tensor, fans: Fans | None, generator: torch.Generator | None) -> None:
        """Write a random isometry."""
        del fans
        orthogonal_(block, self.gain, generator)


@dataclass(frozen=True)
class DeltaOrthogonal(_Isometry):
    """Fill a convolution with zeros, and its middle tap with `gain` times a random isometry, as in JAX.

    The convolution then keeps the length of every input, which an orthogonal `(out, in * kernel)` matrix does not.
    That needs at least as many outputs as inputs.

    Xiao, Bahri, Sohl-Dickstein, Schoenholz & Pennington 2018, Dynamical isometry and a mean field theory of CNNs,
    section 2.4.

    >>> conv = torch.nn.Conv2d(4, 8, 3, padding=1, bias=False)
    >>> weight = DeltaOrthogonal()(conv.weight)
    >>> image = torch.randn(1, 4, 6, 6)
    >>> torch.allclose(conv(image).norm(), image.norm())
    True
    """

    def check(self, shape: Shape, layout: Layout | None) -> None:
        """Refuse what is no convolution, or has more inputs than outputs."""
        super().check(shape, layout)
        if not 3 <= len(shape) <= 5:
            raise ValueError(f"{self} fills convolutions (3 to 5 dimensions), got shape {tuple(shape)}")
        layout = torch_layout(shape) if layout is None else layout
        for block in layout.blocks:
            outputs, inputs, *_ = layout.block_shape(block, shape)
            if outputs < inputs:
                raise ValueError(f"{self} needs at least as many outputs as inputs, got {inputs} -> {outputs} channels")

    def target_std(self, shape: Shape, fans: Fans | None) -> float:
        """Return `gain / sqrt(out * kernel)`, the root of the mean square."""
        del fans
        return self.gain / math.sqrt(max(shape[0] * math.prod(shape[2:]), 1))

    def fill_(self, block: Tensor, fans: Fans | None, generator: torch.Generator | None) -> None:
        """Write the middle tap."""
        del fans
        orthogonal_(centre(block.zero_()), self.gain, generator)
