"""What a parameter is to its module: a weight, a bias, or something that keeps its own values."""

from __future__ import annotations

from typing import Literal, TypeAlias

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from lightning_init import fans
from lightning_init.placement import Place

Role: TypeAlias = Literal["weight", "bias", "normalization", "other", "unknown"]


def role_of(place: Place) -> Role:
    """Return what a parameter is to its module."""
    module, leaf = place.module, place.leaf
    if not fans.known(module):
        norm = isinstance(module, (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm))
        if norm or ("Norm" in place.owner and place.parameter.ndim <= 1):
            return "normalization"
        return "other" if isinstance(module, nn.PReLU) else "unknown"
    if fans.layout(module, leaf, place.shape) is not None:
        return "weight"
    return "bias" if leaf.startswith("bias") or leaf.endswith("bias") else "unknown"
