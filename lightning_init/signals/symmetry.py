"""Symmetric units: those that compute the same and learn the same, and so stay copies of each other for ever."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from lightning_init.placement import Place
from lightning_init.signals.layers import Layer

_DIRECTIONS, _GRID, _SEED = 4, 1e-3, 1
_LOOK_UPS = (nn.Embedding, nn.EmbeddingBag)  # the rows are entries, most of them without a gradient


def symmetric_fraction(*parts: Tensor) -> float:
    """Return the share of the units that equal another unit in every part.

    Rows are compared by their projections on a few random directions, on a grid of a thousandth of the part's size:
    what matrix products round does not hide a symmetry, and random rows never fall together.

    Args:
        parts: each `(units, n)`: weights and their gradients, bias and its gradient.

    >>> symmetric_fraction(torch.tensor([[1.0, 2.0], [1.0, 2.0], [3.0, 1.0]]))
    0.6666666666666666
    """
    units = parts[0].shape[0]
    if units < 2:
        return 0.0
    keys = torch.cat([_keys(part) for part in parts], 1)
    _, which, counts = torch.unique(keys, dim=0, return_inverse=True, return_counts=True)
    return float((counts[which] > 1).double().mean())


def _keys(part: Tensor) -> Tensor:
    """Return `(units, 4)` whole numbers, equal for equal rows."""
    generator = torch.Generator().manual_seed(_SEED)
    directions = torch.randn(part.shape[1], _DIRECTIONS, generator=generator, device="cpu", dtype=torch.float32)
    values = part.detach().to("cpu", torch.float32)
    size = float(values.abs().max()) if values.numel() else 0.0
    if size == 0 or not math.isfinite(size):
        return directions.new_zeros(part.shape[0], _DIRECTIONS)
    projected = (values / size) @ directions  # first divided: gradients may be as small as float32 knows
    rms = projected.square().mean().sqrt()
    return torch.round(projected / (rms * _GRID)) if float(rms) else torch.zeros_like(projected)


def look_at(layer: Layer, place: Place) -> Literal["different", "alike", "stuck", "unknown", "none"]:
    """Return whether all units of the weight are copies of each other and stay so.

    They are stuck if there is no gradient to change that, unknown as long as there may yet be one, none where the
    question makes no sense.
    """
    gradient = place.parameter.grad
    weight = _here(place.parameter.detach())
    if place.kind != "direct" or weight.ndim < 2 or weight.shape[0] < 2 or isinstance(layer.module, _LOOK_UPS):
        return "none"
    if gradient is None:
        return "unknown"
    if gradient.layout is not torch.strided or weight.layout is not torch.strided:
        return "none"
    gradient = _here(gradient.detach())
    if symmetric_fraction(weight.flatten(1), gradient.flatten(1)) < 1.0:
        return "different"
    return "alike" if gradient.any() else "stuck"


def _here(values: Tensor) -> Tensor:
    """Return the rows that are here, of a tensor that is divided among ranks."""
    return values.to_local() if isinstance(values, DTensor) else values
