"""Shards: the part of each parameter that this rank counts, where a strategy has divided parameters among ranks.

A statistic over ranks is right if every value is counted exactly once: each rank brings its own piece of a parameter,
and where several ranks hold the same piece (replicated dimensions of a mesh, HYBRID_SHARD), the first of them does.
"""

from __future__ import annotations

from typing import TypeAlias

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.tensor import DTensor

from lightning_init.placement import Place

Piece: TypeAlias = "tuple[int, ...]"


class Whole:
    """Nothing is divided: every rank counts all of every parameter."""

    divided = False

    def read(self, place: Place) -> Tensor:
        """Return the effective value at `place`, as far as this rank counts it."""
        return place.read()

    def gradient(self, parameter: nn.Parameter) -> Tensor | None:
        """Return the gradient of `parameter`, as far as this rank counts it."""
        return parameter.grad


class Shards(Whole):
    """Who counts which piece of the parameters of `model`; every rank must make one at the same time.

    Args:
        model: as the strategy has wrapped it; its parameters are DTensors, or views of what FSDP has flattened.
    """

    divided = True

    def __init__(self, model: nn.Module) -> None:
        self._flat = _flat_ranks(model)
        parameters = list(model.parameters())
        mine: list[Piece | None] = [self._piece(parameter) for parameter in parameters]
        everyone: list[list[Piece | None]] = [mine] * dist.get_world_size()
        dist.all_gather_object(everyone, mine)
        before = [set(pieces) for pieces in zip(*everyone[: dist.get_rank()], strict=True)] or [set()] * len(mine)
        self._first = dist.get_rank() == 0
        self._counted = {
            parameter
            for parameter, piece, others in zip(parameters, mine, before, strict=True)
            if piece is not None and piece not in others
        }

    def read(self, place: Place) -> Tensor:
        """Return the effective value at `place`, as far as this rank counts it."""
        value = place.read()
        if place.kind == "direct":
            return self._part(value, place.parameter)
        value = value.full_tensor() if isinstance(value, DTensor) else value  # computed from several parameters
        return value if self._first else value.new_empty(0)

    def gradient(self, parameter: nn.Parameter) -> Tensor | None:
        """Return the gradient of `parameter`, as far as this rank counts it."""
        return None if parameter.grad is None else self._part(parameter.grad, parameter)

    def flattened(self, place: Place) -> bool:
        """Return whether the effective value is computed from parameters of which only a slice is here."""
        return place.kind != "direct" and any(parameter in self._flat for parameter in place.stored.values())

    def _piece(self, parameter: nn.Parameter) -> Piece | None:
        """Return the coordinates of this rank's piece along the dimensions that divide it; None without a piece."""
        if parameter in self._flat:
            return self._flat[parameter]
        if not isinstance(parameter, DTensor):
            return ()
        here = parameter.device_mesh.get_coordinate()
        if here is None:
            return None
        return tuple(at for at, how in zip(here, parameter.placements, strict=True) if not how.is_replicate())

    def _part(self, value: Tensor, parameter: nn.Parameter) -> Tensor:
        if isinstance(value, DTensor):
            if isinstance(parameter, DTensor) and value.placements != parameter.placements:  # a pending sum
                value = value.redistribute(parameter.device_mesh, parameter.placements)
            value = value.to_local()
        return value if parameter in self._counted else value.detach().new_empty(0)


def make_shards(model: nn.Module) -> Whole:
    """Return what is divided in `model`; every rank must ask at the same time.

    >>> make_shards(nn.Linear(2, 2)).divided
    False
    """
    divided = any(isinstance(one, DTensor) for one in model.parameters()) or bool(_flat_ranks(model))
    return Shards(model) if divided and dist.is_initialized() and dist.get_world_size() > 1 else Whole()


def _flat_ranks(model: nn.Module) -> dict[nn.Parameter, Piece]:
    """Return the parameters that FSDP has flattened -> the number of this rank's slice of them.

    FSDP has no public name for its handles.
    """
    found: dict[nn.Parameter, Piece] = {}
    for module in model.modules():
        handle = module._handle if isinstance(module, FullyShardedDataParallel) else None  # noqa: SLF001 (not public)
        if handle is not None:
            piece = (handle.rank,) if handle.uses_sharded_strategy else ()
            flat = handle.flat_param
            found |= dict.fromkeys([flat, *(flat._params or []), *(flat._shared_params or [])], piece)  # noqa: SLF001 (same)
    return found
