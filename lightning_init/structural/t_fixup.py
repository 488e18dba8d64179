"""T-Fixup: transformers that train without layer normalization and warmup."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from lightning_init.auto.structure import Structure
from lightning_init.fans import Fans, Layout, Shape
from lightning_init.initializers.base import Initializer
from lightning_init.initializers.distributions import Normal
from lightning_init.initializers.variance_scaling import XavierUniform
from lightning_init.structural.base import Special, Structural, normalizations


@dataclass(frozen=True)
class _ValueScaled(XavierUniform):
    """Xavier for packed q, k and v, the last of which is multiplied by `factor`."""

    elementwise: ClassVar[bool] = False

    factor: float = 1.0

    def target_std(self, shape: Shape, fans: Fans | None) -> None:  # type: ignore[override]  # Xavier has one
        """Return None: the blocks differ."""

    def _fill_blocks(self, values: Tensor, layout: Layout | None, generator: torch.Generator | None) -> None:
        assert layout is not None
        for block, view in zip(layout.blocks, layout.views(values), strict=True):
            XavierUniform(self.gain).fill_(view, block.fans, generator)
        view.mul_(self.factor)


@dataclass(frozen=True)
class TFixup(Structural):
    r"""Xavier's weights; values, output projections, MLPs and embeddings scaled down with the number of layers N.

    In encoder layers the factor is $0.67 N^{-1/4}$, in decoder layers $(9 N)^{-1/4}$; embeddings have std
    $d^{-1/2} (9 N)^{-1/4}$. One step then changes the function by an amount that does not grow with N.

    Huang, Perez, Ba & Volkovs 2020, Improving transformer optimization through better initialization, section 3.4 (the
    scheme), 3.2 (why). N is that of the encoder and of the decoder each.

    Limits: torch's own `TransformerEncoderLayer` and `TransformerDecoderLayer`, whose normalizations have been replaced
    by `nn.Identity()`, which is what the paper is about.

    Raises:
        ValueError: on use: there is no such layer, or there are normalizations.
    """

    @property
    def rest(self) -> Initializer:
        """Xavier's uniform law."""
        return XavierUniform()

    def on(self, model: nn.Module) -> Initializer:
        """Return what each parameter of `model` gets; the data flow between the layers does not matter."""
        return self.assigned(model, self.special(model, Structure({}, 0)))

    def special(self, model: nn.Module, found: Structure) -> Special:
        """Return the scaled weights."""
        del found
        layers = {
            kind: [(name, one) for name, one in model.named_modules() if isinstance(one, kind)]
            for kind in (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)
        }
        encoder, decoder = layers.values()
        if not (encoder or decoder):
            raise ValueError(
                f"{self.label} is for torch's TransformerEncoderLayer and TransformerDecoderLayer, and "
                f"{type(model).__name__} has none"
            )
        norms = normalizations(model)
        if norms:
            raise ValueError(
                f"{self.label} replaces layer normalization, and {type(model).__name__} has some "
                f"({', '.join(norms[:3])}): put nn.Identity() in their places"
            )
        special: dict[str, tuple[Initializer, str]] = {}
        for stack, base in ((encoder, 0.67**-4), (decoder, 9)):
            factor = (base * max(len(stack), 1)) ** -0.25
            for name, layer in stack:
                for parameter in _scaled(layer):
                    law = _ValueScaled(1.0, factor) if parameter.endswith("in_proj_weight") else XavierUniform(factor)
                    special[f"{name}.{parameter}"] = (law, f"one of {len(stack)} layers (x {factor:.3f})")
        shrink = (9 * max(len(decoder), len(encoder))) ** -0.25
        for name, module in model.named_modules():
            if isinstance(module, nn.Embedding):
                std = module.embedding_dim**-0.5 * shrink
                special[f"{name}.weight"] = (Normal(std=std), f"embedding: std d^-1/2 x {shrink:.3f}")
        return special


def _scaled(layer: nn.Module) -> Iterator[str]:
    """Yield the names of the parameters of a layer that are scaled."""
    for name, _ in layer.named_parameters():
        if name.endswith(("in_proj_weight", "v_proj_weight", "out_proj.weight")) or name in (
            "linear1.weight",
            "linear2.weight",
        ):
            yield name
