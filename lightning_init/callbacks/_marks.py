"""Which layers a fit has initialized: marks on the modules, and for workers a ledger of weights.

A mark is an attribute in the module's `__dict__`. It survives deepcopy and pickling, follows the layer into another
LightningModule, and is in no state_dict.

`ddp_spawn` and `ddp_fork` train a copy of the module in worker processes and bring back nothing but its weights, so a
mark that is set there is lost. What the next worker can recognize are the weights: each fit in a worker enters their
fingerprint into a ledger in shared memory, which the callback carries to every worker.
"""

from __future__ import annotations

import hashlib
import multiprocessing
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from functools import cache

import torch
from torch import Tensor, nn

from lightning_init._names import join
from lightning_init.placement import Place, places

_MARK = "_lightning_init_done"
_FITS = 1024  # that the ledger remembers; 8 bytes each


def mark(model: nn.Module) -> None:
    """Mark every module of `model` as initialized."""
    for module in model.modules():
        vars(module)[_MARK] = True


def mark_loaded(model: nn.Module, state_dict: Collection[str]) -> None:
    """Mark the modules of `model` all of whose own parameters are in `state_dict`.

    >>> model = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    >>> mark_loaded(model, {"0.weight", "0.bias", "1.bias"})
    >>> sorted(fresh(model))
    ['1.bias', '1.weight']
    """
    for path, module in model.named_modules():
        if all(join(path, name) in state_dict for name, _ in module.named_parameters(recurse=False)):
            vars(module)[_MARK] = True


def fresh(model: nn.Module) -> set[str]:
    """Return the names of the effective parameters that no fit has initialized.

    >>> model = nn.Sequential(nn.Linear(1, 1))
    >>> mark(model)
    >>> model.append(nn.Linear(1, 1, bias=False)) and fresh(model)
    {'1.weight'}
    """
    marked = [module for module in model.modules() if _marked(module)]
    old = {id(parameter) for module in marked for parameter in module.parameters(recurse=False)}
    return {place.name for place in places(model) if not (_marked(place.module) or _holds(place, old))}


def _marked(module: nn.Module) -> bool:
    return getattr(module, _MARK, False)  # FSDP and torch.compile pass the question on to the module inside


def _holds(place: Place, old: set[int]) -> bool:
    """Return whether `place` is another name of a marked module's parameter (tied weights)."""
    return any(id(parameter) in old for parameter in place.stored.values())


# --- for workers ----------------------------------------------------------------------------------------------------


def is_worker() -> bool:
    """Return whether this process was spawned or forked by another Python process."""
    return multiprocessing.parent_process() is not None


@cache
def ledger() -> Tensor:
    """Return this process' ledger, int64: how many fingerprints were entered, then the latest of them."""
    entries = torch.zeros(1 + _FITS, dtype=torch.int64)
    with suppress(RuntimeError, OSError):  # no shared memory here: then there are no workers either
        entries.share_memory_()  # type: ignore[no-untyped-call]
    return entries


def enter(entries: Tensor, fingerprint: int) -> None:
    """Enter `fingerprint` into the ledger, in the place of the oldest if it is full."""
    if not entered(entries, fingerprint):
        entries[1 + int(entries[0]) % _FITS] = fingerprint
        entries[0] += 1


def entered(entries: Tensor, fingerprint: int) -> bool:
    """Return whether `fingerprint` is in the ledger."""
    return bool((entries[1:] == fingerprint).any())


def dtypes(model: nn.Module) -> dict[str, torch.dtype]:
    """Return parameter name -> dtype."""
    return {name: parameter.dtype for name, parameter in model.named_parameters()}


def fingerprint(model: nn.Module, wanted: Mapping[str, torch.dtype]) -> int | None:
    """Return a number for the values of the parameters `wanted`, cast to the dtypes given there; None without any.

    Lightning loads the worker's weights into the main process' parameters, whose dtype precision plugins leave alone.
    """
    parameters = dict(model.named_parameters())
    if not wanted or not wanted.keys() <= parameters.keys():
        return None
    return _hash((name, parameters[name].detach().to("cpu", dtype)) for name, dtype in sorted(wanted.items()))


def _hash(tensors: Iterable[tuple[str, Tensor]]) -> int:
    digest = hashlib.blake2b(digest_size=8)
    for name, tensor in tensors:
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return int.from_bytes(digest.digest(), "little") >> 1 | 1  # not 0, the ledger's blank
