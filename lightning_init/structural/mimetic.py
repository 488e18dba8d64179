"""Mimetic initialization: self-attention that starts as pretrained vision transformers' ends."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, fx, nn

from lightning_init import initializers
from lightning_init._names import clean, join
from lightning_init.auto.structure import Structure
from lightning_init.fans import Fans, Layout, Shape
from lightning_init.initializers._checks import number
from lightning_init.initializers.base import Initializer
from lightning_init.initializers.orthogonal import one_thread
from lightning_init.placement import places
from lightning_init.structural.base import Special, Structural
from lightning_init.tracing import dataflow


def product(like: Tensor, alpha: float, beta: float, generator: torch.Generator | None) -> Tensor:
    """Return `alpha Z + beta I` with entries of Z from N(0, 1/d), of the dtype and on the device of `like` (*, d)."""
    d = like.shape[-1]
    target = like.new_empty(d, d).normal_(0.0, alpha / math.sqrt(d), generator=generator)
    target.diagonal().add_(beta)
    return target


def factors(target: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return A (d, rank) and B (rank, d), equally large, whose product AB is nearest to `target` (d, d).

    They are the singular vectors times the roots of the largest singular values. The largest entry of each column of A
    is positive, so that every device and every call finds the same pair.

    >>> a, b = factors(torch.diag(torch.tensor([1.0, -4.0])), rank=1)
    >>> (a @ b + 0.0).tolist()
    [[0.0, 0.0], [0.0, -4.0]]
    """
    with one_thread():  # LAPACK's rounding depends on their number
        u, s, vh = torch.linalg.svd(target)
    u, s, vh = u[:, :rank], s[:rank].sqrt(), vh[:rank]
    sign = u.gather(0, u.abs().argmax(0, keepdim=True)).sgn()
    return u * sign * s, vh * sign.t() * s[:, None]


@dataclass(frozen=True)
class _Factors(Initializer):
    """What the two parameters of one self-attention have in common: the product of values and projections, drawn first.

    Args:
        heads: number of heads.
        qk: alpha and beta of queries and keys.
        vp: alpha and beta of values and projection; beta with its sign.
        with_: name of the packed parameter, from whose random numbers both are made.
    """

    elementwise: ClassVar[bool] = False
    needs_layout: ClassVar[bool] = True

    heads: int
    qk: tuple[float, float]
    vp: tuple[float, float]
    with_: str

    @property
    def label(self) -> str:
        """The name."""
        return "mimetic"

    @property
    def drawn_with(self) -> str:
        """The packed parameter: values and projection are two halves of one draw."""
        return self.with_

    def target_std(self, shape: Shape, fans: Fans | None) -> None:
        """Return None: it is the products that have a law in closed form."""


@dataclass(frozen=True)
class _Packed(_Factors):
    """Queries, keys and values `(3 d, d)`."""

    def fill_(self, block: Tensor, fans: Fans | None, generator: torch.Generator | None) -> None:
        """Write all three: torch's `x @ weight.T` takes the transposed of the paper's matrices."""
        del fans
        query, key, value = block.chunk(3)
        width = block.shape[1] // self.heads
        value.copy_(factors(product(block, *self.vp, generator), block.shape[1])[0].t())
        for head in range(self.heads):
            rows = slice(head * width, (head + 1) * width)
            left, right = factors(product(block, *self.qk, generator), width)
            query[rows], key[rows] = left.t(), right

    def _fill_blocks(self, values: Tensor, layout: Layout | None, generator: torch.Generator | None) -> None:
        del layout
        self.fill_(values, None, generator)


@dataclass(frozen=True)
class _Projection(_Factors):
    """The output projection `(d, d)`."""

    def fill_(self, block: Tensor, fans: Fans | None, generator: torch.Generator | None) -> None:
        """Write the other factor of the product that the packed parameter began with."""
        del fans
        block.copy_(factors(product(block, *self.vp, generator), block.shape[1])[1].t())


@dataclass(frozen=True)
class Mimetic(Structural):
    r"""Self-attention whose queries and keys, and values and projection, multiply to noise and an identity.

    $W_Q W_K^\top \approx \alpha_{qk} Z + \beta_{qk} I$ and $W_V W_P = \alpha_{vp} Z - \beta_{vp} I$; entries of Z are
    N(0, 1/d), d the embedding dimension. Each head has a Z of its own for queries and keys, whose product has the
    head's rank: the best approximation of that rank (truncated SVD). Values (of all heads) and output projection are
    the two factors of one full-rank product. Tokens then attend to tokens that are alike, and a layer takes away from
    its stream what it reads, as in pretrained vision transformers; in GPT-2 both signs are the other ones (negative
    betas).

    Trockman & Kolter 2023, Mimetic initialization of self-attention layers (arXiv 2305.09828), whose defaults these
    are.

    Limits: `nn.MultiheadAttention`, by itself or inside torch's transformer layers and torchvision's models. The method
    is about self-attention: attention of one signal to another (in decoders, or wherever the data flow shows a query
    that is not the key) is initialized like everything else, by `initializer`. The sinusoidal position embeddings that
    the paper combines it with are not set: which parameter is one, and on which grid, is the model's affair. The two
    factors belong together: a rule for one of them breaks the product.

    Args:
        alpha_qk, beta_qk: noise and identity of queries and keys.
        alpha_vp, beta_vp: noise and negative identity of values and output projection.
        initializer: of all other weights, a name.

    Raises:
        ValueError: on use: there is no self-attention, or one whose keys or values have another dimension.

    >>> from lightning_init import initialize
    >>> attention = nn.MultiheadAttention(64, num_heads=1, bias=False)
    >>> _ = initialize(attention, Mimetic(), seed=0)
    >>> query, key, value = attention.in_proj_weight.detach().chunk(3)
    >>> round((query.T @ key).diagonal().mean().item(), 1)
    0.7
    >>> round((value.T @ attention.out_proj.weight.detach().T).diagonal().mean().item(), 1)
    -0.4
    """

    alpha_qk: float = 0.7
    beta_qk: float = 0.7
    alpha_vp: float = 0.4
    beta_vp: float = 0.4
    initializer: str = "xavier_uniform"

    def __post_init__(self) -> None:
        for name in ("alpha_qk", "alpha_vp"):
            number(self, name, minimum=0)
        for name in ("beta_qk", "beta_vp"):
            number(self, name)
        initializers.get(self.initializer)

    @property
    def rest(self) -> Initializer:
        """The initializer of all other weights."""
        return initializers.get(self.initializer)

    def on(self, model: nn.Module) -> Initializer:
        """Return what each parameter of `model` gets; a data flow that cannot be followed shows no cross-attention."""
        return self.assigned(model, self.special(model, Structure({}, 0)))

    def special(self, model: nn.Module, found: Structure) -> Special:
        """Return the packed parameter and the output projection of every self-attention."""
        del found
        across = set(_cross_attention(model))
        attention = {
            name: module
            for name, module in model.named_modules()
            if isinstance(module, nn.MultiheadAttention) and clean(name, model) not in across
        }
        if not attention:
            only = f": {', '.join(sorted(across))} attends to another signal" if across else ""
            raise ValueError(
                f"{self.label} is for self-attention (nn.MultiheadAttention), and {type(model).__name__} has none{only}"
            )
        homes = {alias: place.name for place in places(model) for alias in place.names}
        special: dict[str, tuple[Initializer, str]] = {}
        for name, module in attention.items():
            if module.in_proj_weight is None:
                raise ValueError(
                    f"{self.label} multiplies queries with keys, and values with projections, of one dimension, and "
                    f"{name or type(model).__name__} has embed_dim={module.embed_dim}, kdim={module.kdim}, "
                    f"vdim={module.vdim}: leave kdim and vdim away, or initialize it by another name"
                )
            parts = join(name, "in_proj_weight"), join(name, "out_proj.weight")
            packed = homes[clean(parts[0], model)]
            settings = (module.num_heads, (self.alpha_qk, self.beta_qk), (self.alpha_vp, -self.beta_vp), packed)
            qk = f"W_Q W_K' near {self.alpha_qk:g} Z + {self.beta_qk:g} I in each of {module.num_heads} heads"
            vp = f"W_V W_P = {self.alpha_vp:g} Z - {self.beta_vp:g} I"
            special[parts[0]] = (_Packed(*settings), f"self-attention: {qk}, {vp}")
            special[parts[1]] = (_Projection(*settings), f"self-attention: {vp}, with {packed}")
        return special


def _cross_attention(model: nn.Module) -> Iterator[str]:
    """Yield the paths of what attends to another signal: in torch's decoders, and where the data flow shows it."""
    for name, module in model.named_modules():
        if isinstance(module, nn.TransformerDecoderLayer):
            yield clean(join(name, "multihead_attn"), model)
    walk, _ = dataflow(model)
    if walk is not None:
        for name, node in walk.layers():
            if isinstance(walk.module_at(node), nn.MultiheadAttention) and not _of_itself(node):
                yield name.removesuffix(".out_proj").removesuffix("out_proj")


def _of_itself(node: fx.Node) -> bool:
    """Return whether the query of an attention is its key."""
    given = {**dict(zip(("query", "key"), node.args, strict=False)), **node.kwargs}
    return given.get("query") is given.get("key")
