"""Uniform and normal numbers, the same as torch's to the bit.

With Numba installed (`pip install lightning-init[fast]`) and after `prepare`, float32 on the CPU come from
`lightning_init.kernels.twister` in a fraction of the time, for each law only if it has drawn what this torch draws on
this processor (on one without AVX2, torch makes its normal numbers in another way). Everything else torch draws itself.
"""

from __future__ import annotations

from functools import cache
from types import ModuleType

import numpy as np
import torch
from torch import Tensor, nn

from lightning_init import kernels

_PART = 1 << 18  # stays in a CPU's cache
_LARGE = 1 << 14  # entries from which on to take a generator apart and to put it together again is worth its time
_WORTH = 1 << 28  # numbers that save more time than loading the kernel takes; compiling it, once, takes longer
_CHECKED = (1 << 16) + 5  # numbers that are compared: one operation in another order changes 20 in 100,000 or more
_STATE = 5056  # bytes of a generator's state
_LARGEST = 1 - 2.0**-24  # the largest number of U[0, 1) that torch draws

_twister: ModuleType | None = None  # until `prepare`


def prepare(numbers: int) -> None:
    """Have the kernel ready if `numbers` are so many that this is worth its time."""
    global _twister
    if numbers >= _WORTH:
        _twister = kernels.load("twister")


def uniform_(values: Tensor, low: float, high: float, generator: torch.Generator | None) -> None:
    """Fill real `values` from U[low, high)."""
    with np.errstate(over="ignore"):
        a, b = np.float32(low), np.float32(high)
        width = b - a
        inside = np.float32(_LARGEST * float(width) + float(a)) < b  # torch's versions differ in what is rounded up
    if generator is None or not inside or not _can_fill(values, generator, "uniform"):
        values.uniform_(low, high, generator=generator)
    else:
        _fill("uniform", values, generator, float(a), float(width))


def normal_(values: Tensor, mean: float, std: float, generator: torch.Generator | None) -> None:
    """Fill real `values` from N(mean, std^2)."""
    if generator is None or not std >= 0 or not _can_fill(values, generator, "normal"):  # torch says why not
        for part in in_cache(values):
            part.normal_(mean, std, generator=generator)
    else:
        _fill("normal", values, generator, mean, std)


def in_cache(values: Tensor) -> tuple[Tensor, ...]:
    """Return views of all entries, in order, that are small enough to stay in a CPU's cache while they are drawn.

    torch draws a normal tensor in two passes over the memory, in groups of 16 entries, of which the last overlaps the
    one before: parts of a multiple of 16 entries, the last one with at least 16, get the same values to the bit.

    >>> [len(part) for part in in_cache(torch.empty(2 * _PART + 15))]
    [262144, 262159]
    """
    if values.device.type != "cpu" or values.numel() < 2 * _PART or not values.is_contiguous():
        return (values,)
    whole = values.numel() // _PART - 1
    return torch.split(values.view(-1), [_PART] * whole + [values.numel() - whole * _PART])


def _can_fill(values: Tensor, generator: torch.Generator, law: str) -> bool:
    """Return whether the kernel is there, and `values` are many float32 that lie in this machine's memory in order."""
    return (
        _twister is not None
        and type(values) in (Tensor, nn.Parameter)
        and values.dtype is torch.float32
        and values.is_cpu
        and generator.device.type == "cpu"
        and values.layout is torch.strided
        and values.numel() >= _LARGE
        and values.is_contiguous()
        and _has_memory(values)
        and not (values.is_neg() or values.is_inference())
        and not (values.requires_grad and torch.is_grad_enabled())  # torch says why not
        and _equals_torch(law)
    )


def _has_memory(values: Tensor) -> bool:
    try:
        return values.data_ptr() != 0
    except RuntimeError:  # inside of functorch's transforms
        return False


@cache
def _equals_torch(law: str) -> bool:
    """Return whether kernel and torch draw the same numbers, and leave the generator in the same state."""
    ours, theirs = torch.empty(2, _CHECKED, dtype=torch.float32, device="cpu")
    generators = [torch.Generator().manual_seed(0) for _ in range(2)]
    for generator in generators:
        torch.rand(100, generator=generator, device="cpu")  # words are left over from an earlier tensor
    getattr(theirs, f"{law}_")(0.25, 1.0, generator=generators[1])
    try:
        _fill(law, ours, generators[0], 0.25, {"uniform": 0.75, "normal": 1.0}[law])
    except ValueError:  # of a generator with another state
        return False
    return torch.equal(ours, theirs) and torch.equal(*(generator.get_state() for generator in generators))


def _fill(law: str, values: Tensor, generator: torch.Generator, a: float, b: float) -> None:
    """Fill `values` with what the kernel draws, and leave `generator` behind as torch would."""
    state = generator.get_state()
    raw = state.numpy()  # of which the rest is the seed, and a normal number in store that tensors do not take
    if len(raw) != _STATE:
        raise ValueError(f"the state of a torch.Generator had {_STATE} bytes, this one has {len(raw)}")
    left, following, stored = raw[8:12].view(np.int32), raw[16:24].view(np.uint64), raw[24:5016].view(np.uint64)
    words = stored.astype(np.uint32)
    position = len(words) + 1 - int(left[0])
    position = getattr(_twister, law)(words.ctypes.data, position, values.data_ptr(), values.numel(), a, b)
    left[0], following[0], stored[:] = len(words) + 1 - position, position, words
    generator.set_state(state)
    torch.autograd.graph.increment_version(values)
