"""Taking a batch out of training data so that training sees nothing of it: the same order, the same random streams."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from torch import Generator
from torch.utils.data import DataLoader, IterableDataset, Sampler

_DEPTH = 6  # of attributes inside attributes; a list longer than _MANY holds data, not transforms
_MANY = 100


@contextmanager
def undrawn(batches: Iterable[object]) -> Iterator[Iterable[object]]:
    """Yield what to iterate in place of `batches`, and put back every random stream that this advances.

    A DataLoader is read through a copy of itself, its samplers and its iterable dataset, without workers.

    Raises:
        ValueError: the data can be read only once, so that a batch taken from them would be missing later.

    >>> loader = DataLoader(torch.arange(4), shuffle=True, generator=Generator().manual_seed(0))
    >>> with undrawn(loader) as twin:
    ...     first = list(twin)
    >>> list(loader) == first
    True
    """
    restore = [_keeper(stream) for stream in _streams(batches)]
    streams = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=_cuda()):
            yield _twin(batches) if isinstance(batches, DataLoader) else batches
    finally:
        for one in restore:
            one()
        random.setstate(streams[0])
        np.random.set_state(streams[1])


def _cuda() -> list[int]:
    initialized = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return [torch.cuda.current_device()] if initialized else []


def _twin(loader: DataLoader[object]) -> DataLoader[object]:
    """Return a copy that can be read without advancing the original, which may keep its workers."""
    twin = copy.copy(loader)
    sampler, batches = copy.copy(loader.sampler), copy.copy(loader.batch_sampler)
    if isinstance(getattr(batches, "sampler", None), Sampler):
        vars(batches)["sampler"] = copy.copy(vars(batches)["sampler"])
    vars(twin).update(
        sampler=sampler,
        batch_sampler=batches,
        dataset=_replayable(loader.dataset),
        num_workers=0,
        timeout=0,
        prefetch_factor=None,
        persistent_workers=False,
        _iterator=None,
    )
    return twin


def _replayable(dataset: object) -> object:
    """Return what can be iterated in place of an iterable dataset that counts what it has given out."""
    if not isinstance(dataset, IterableDataset):
        return dataset
    try:
        return copy.deepcopy(dataset)
    except Exception as error:
        once = [name for name, value in vars(dataset).items() if isinstance(value, Iterator)]
        if once:
            raise ValueError(
                f"{type(dataset).__name__} reads its {once[0]} only once, so a batch for the calibration would be "
                "missing in training; make it anew in __iter__, or use lightning_init.calibrate before"
            ) from error
        return dataset


def _streams(holder: object, depth: int = _DEPTH, seen: set[int] | None = None) -> Iterator[object]:
    """Yield the random generators among the attributes of a loader, its samplers, datasets and transforms."""
    seen = set() if seen is None else seen
    if id(holder) in seen or depth == 0:
        return
    seen.add(id(holder))
    if isinstance(holder, (Generator, np.random.Generator, np.random.RandomState, random.Random)):
        yield holder
    elif isinstance(holder, (list, tuple)):
        for part in holder if len(holder) <= _MANY else ():
            yield from _streams(part, depth - 1, seen)
    elif isinstance(holder, dict):
        yield from _streams(list(holder.values()), depth, seen)
    elif not isinstance(holder, (torch.Tensor, type)) and hasattr(holder, "__dict__"):
        for part in vars(holder).values():
            yield from _streams(part, depth - 1, seen)


def _keeper(stream: object) -> Callable[[], object]:
    """Return what puts a random generator back to where it is now."""
    if isinstance(stream, Generator):
        state = stream.get_state()
        return partial(stream.set_state, state)
    if isinstance(stream, np.random.Generator):
        bits = copy.deepcopy(stream.bit_generator.state)
        return lambda: setattr(stream.bit_generator, "state", bits)
    if isinstance(stream, np.random.RandomState):
        legacy = stream.get_state()
        return lambda: stream.set_state(legacy)
    assert isinstance(stream, random.Random)
    plain = stream.getstate()
    return lambda: stream.setstate(plain)
