"""Every place of a model, under one name each, also where parameters are tied."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.parameter import is_lazy

from lightning_init import fans
from lightning_init._names import clean, join
from lightning_init.placement.computed import places_of
from lightning_init.placement.place import Place


def places(model: nn.Module) -> list[Place]:
    """Return one `Place` for each effective parameter of `model`, in registration order; tied ones once.

    Raises:
        ValueError: two parameters have one name once what wrappers add is taken off.

    >>> model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 2)))
    >>> [(place.name, place.kind, list(place.stored)) for place in places(model)]
    ... # doctest: +NORMALIZE_WHITESPACE
    [('0.weight', 'parametrization', ['0.parametrizations.weight.original0', '0.parametrizations.weight.original1']),
     ('0.bias', 'direct', ['0.bias'])]
    """
    found: dict[str, Place] = {}
    home: dict[int, str] = {}  # stored parameter -> the place that it belongs to
    memory: dict[object, str] = {}  # the same, for parameters of their own that are one in memory
    raw: dict[str, str] = {}
    for raw_name, module in model.named_modules(remove_duplicate=False):
        for place in places_of(clean(raw_name, model), module):
            tied = {stored: home[id(parameter)] for stored, parameter in place.stored.items() if id(parameter) in home}
            rest = {stored: parameter for stored, parameter in place.stored.items() if stored not in tied}
            for stored, name in tied.items():
                alias, first = stored if rest else place.name, found[name]
                if alias not in first.names:
                    users = (*first.users, module) if place.kind == "direct" else first.users
                    first = replace(first, also=(*first.also, alias), users=users)
                if not rest and _refers(first, place):
                    first = replace(place, stored=first.stored, also=first.also, alias=first.name, users=first.users)
                found[name] = first
            if rest:
                full = join(raw_name, place.leaf)
                if place.name in found:
                    raise ValueError(f"{raw[place.name]!r} and {full!r} are both called {place.name!r}: rename one")
                raw[place.name] = full
                home.update((id(parameter), place.name) for parameter in rest.values())
                shared = [memory[_memory(p)] for p in rest.values() if _memory(p) in memory]
                memory.update((_memory(parameter), place.name) for parameter in rest.values())
                found[place.name] = replace(place, stored=rest, tied_to=next(iter((*tied.values(), *shared)), ""))
    return list(found.values())


def _refers(first: Place, place: Place) -> bool:
    """Return whether `first` merely refers to what `place` uses: `model.tied = model.head.weight`."""
    both_direct = first.kind == place.kind == "direct"
    return both_direct and not fans.known(first.module) and fans.known(place.module)


def _memory(parameter: nn.Parameter) -> object:
    """Return what is equal for two parameters that are the same entries of memory, transposed or not."""
    start = address(parameter)
    if start == 0:
        return id(parameter)
    steps = zip(parameter.stride(), parameter.shape, strict=True)
    return (parameter.device, start, parameter.dtype, *sorted(step for step in steps if step[1] != 1))


def address(parameter: Tensor) -> int:
    """Return where the memory of `parameter` begins; 0 if it has none of its own (lazy, meta, sharded, sparse, fake).

    >>> address(torch.empty(3, device="meta"))
    0
    """
    if is_lazy(parameter) or isinstance(parameter, DTensor) or parameter.layout != torch.strided:
        return 0
    try:
        return parameter.data_ptr()
    except (RuntimeError, NotImplementedError):  # what torch raises for fake and other storageless tensors
        return 0
