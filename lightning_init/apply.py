"""Writes a plan into a model and reads back what came out of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import cache
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from lightning_init._interrupts import finished_before_interrupts
from lightning_init.assignment import Assignment, Reading, entries
from lightning_init.initializers import drawing
from lightning_init.initializers.pretrained import Given
from lightning_init.placement import address, restored_on_error
from lightning_init.plan import Plan
from lightning_init.report import Report

_LARGE = 1 << 16  # values from which on a parameter is worth a thread of its own (see `_each`)
_CHUNK = 1 << 18  # values reduced at a time: stays in cache, and sums of float32 stay exact enough


def apply_(plan: Plan) -> Report:
    """Write `plan` into its model and return the report.

    What can fail half-way (user-made initializers, parametrizations) is written first and taken back on an error;
    the rest, which cannot fail once the plan is checked, follows in place and in parallel threads on the CPU. Ctrl-C
    takes back the former and waits for the latter, so that no model is half written.
    """
    writes = [assignment for assignment in plan.assignments if assignment.initializer is not None]
    _refuse_meta(writes)
    _refuse_unwritable(writes)
    _refuse_sources(writes)
    fallible = [assignment for assignment in writes if _may_fail(assignment)]
    certain = [assignment for assignment in writes if not _may_fail(assignment)]
    for assignment in fallible:
        list(entries(assignment, Reading()))  # the texts of others' initializers may fail too
    with ExitStack() as to_the_end:
        with restored_on_error(assignment.place for assignment in fallible):
            drawn = {assignment.name: _write_alone_(plan, assignment) for assignment in fallible}
            to_the_end.enter_context(finished_before_interrupts())
        here = [assignment.place.parameter for assignment in certain if assignment.place.parameter.is_cpu]
        drawing.prepare(sum(parameter.numel() for parameter in here))
        achieved = _each(lambda assignment: _written_std_(plan, assignment), certain)
    achieved.update(_each(_achieved_std, [one for one in plan.assignments if one.name not in achieved]))
    return plan.report([Reading(achieved[a.name], drawn.get(a.name)) for a in plan.assignments])


def _written_std_(plan: Plan, assignment: Assignment) -> float | None:
    """Write one parameter and return its std, read while a part of it is still in the cache.

    Who works on whole matrices needs memory beside them; if that runs out, the parameter is put back as it was.
    """
    assert assignment.initializer is not None
    with restored_on_error(() if assignment.initializer.elementwise else (assignment.place,)):
        _write_(plan, assignment)
    return _achieved_std(assignment)


def _refuse_unwritable(writes: Sequence[Assignment]) -> None:
    stored = [pair for assignment in writes for pair in assignment.place.stored.items()]
    for name, parameter in stored:
        if not isinstance(parameter, DTensor):
            _refuse_memory(name, parameter)
    _refuse_overlap(stored)


def _refuse_overlap(stored: Sequence[tuple[str, Tensor]]) -> None:
    """Raise ValueError if two parameters share a part of their memory: what one gets the other would lose."""
    plain = [(name, p) for name, p in stored if address(p) and p.is_contiguous()]
    spans = sorted((str(p.device), address(p), p.nbytes, name) for name, p in plain)
    for (device, start, size, name), (other_device, other_start, _, other) in pairwise(spans):
        if device == other_device and other_start < start + size:
            raise ValueError(f"{name} and {other} share a part of their memory; keep one of them with None in rules")


def _refuse_sources(writes: Sequence[Assignment]) -> None:
    """Raise ValueError if pretrained values are parameters that are written too: which comes first is chance."""
    written = {address(p): name for assignment in writes for name, p in assignment.place.stored.items() if address(p)}
    for assignment in writes:
        if isinstance(assignment.initializer, Given):
            source = written.get(address(assignment.initializer.value))
            if source is not None and source not in assignment.place.stored:
                raise ValueError(
                    f"the pretrained values of {assignment.name} are the memory of {source}, which is initialized too; "
                    "give Pretrained a copy (copy.deepcopy of the state dict)"
                )


def _refuse_memory(name: str, parameter: Tensor) -> None:
    """Raise NotImplementedError for memory that cannot be written entry by entry."""
    what = None
    if parameter.layout != torch.strided:
        what = f"is stored as {parameter.layout}"
    elif parameter.is_inference() and not torch.is_inference_mode_enabled():
        what = "was made in inference mode"
    elif not _takes_values(parameter.dtype, parameter.device):
        what = f"is {parameter.dtype}, into which torch cannot write numbers"
    elif any(stride == 0 and size > 1 for stride, size in zip(parameter.stride(), parameter.shape, strict=True)):
        what = "repeats its entries in memory (expand)"
    if what is not None:
        raise NotImplementedError(f"{name} {tuple(parameter.shape)} {what}; keep it with None in rules")


@cache
def _takes_values(dtype: torch.dtype, device: torch.device) -> bool:
    """Return whether torch converts numbers to this dtype there (not to packed float4)."""
    try:
        torch.empty(1, dtype=dtype, device=device).copy_(torch.zeros(1, device=device))
    except (RuntimeError, NotImplementedError):  # what torch raises where it has no conversion
        return False
    return True


def _refuse_meta(writes: Sequence[Assignment]) -> None:
    meta = [a.name for a in writes if any(p.is_meta for p in a.place.stored.values())]
    if meta:
        raise ValueError(
            f"{', '.join(meta[:5])}{', ...' if len(meta) > 5 else ''} on the meta device: there is no memory to "
            "initialize; call model.to_empty(device=...) first"
        )


def _may_fail(assignment: Assignment) -> bool:
    ours = type(assignment.initializer).__module__.startswith("lightning_init.")
    return assignment.place.kind != "direct" or not ours


def _write_alone_(plan: Plan, assignment: Assignment) -> float | None:
    """Write with what others have made: whatever it draws from the global streams is the parameter's own."""
    device = assignment.place.parameter.device
    streams = [torch.default_generator]
    if device.type == "cuda":
        streams.append(torch.cuda.default_generators[device.index])
    before = [stream.get_state() for stream in streams]
    try:
        for stream in streams:  # torch's orthogonal parametrization draws from it
            stream.manual_seed(plan.generator(assignment, device).initial_seed())
        return _write_(plan, assignment)
    finally:
        for stream, state in zip(streams, before, strict=True):
            stream.set_state(state)


def _write_(plan: Plan, assignment: Assignment) -> float | None:
    """Draw and write one parameter; return the std of what was drawn where the module makes something else of it."""
    place, initializer = assignment.place, assignment.initializer
    assert initializer is not None
    parameter = place.parameter
    generator = plan.generator(assignment, parameter.device)
    try:
        if place.kind == "direct" and not isinstance(parameter, DTensor):
            initializer(parameter, layout=assignment.layout, generator=generator)
            return None
        value = torch.empty(place.shape, dtype=parameter.dtype, device=parameter.device)
        initializer(value, layout=assignment.layout, generator=generator)
    except (ValueError, TypeError, RuntimeError) as error:
        raise type(error)(f"{assignment.name} {tuple(place.shape)}: {error}") from error
    drawn = population_std(value)
    if isinstance(parameter, DTensor):  # every rank draws the whole and keeps its shard: nothing is communicated
        value = distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)
    try:
        place.write_(value)
    except (ValueError, TypeError, RuntimeError) as error:
        raise NotImplementedError(
            f"{assignment.name} {tuple(place.shape)} is computed by its {place.kind}, which takes no value ({error}); "
            "keep it with None in rules"
        ) from error
    if bool(value.isfinite().all()) and not bool(place.read().isfinite().all()):
        raise NotImplementedError(
            f"{assignment.name} {tuple(place.shape)} is computed by its {place.kind}, which makes something not "
            f"finite of {initializer.label}; give it another initializer in rules"
        )
    return drawn


_Result = TypeVar("_Result")


def _each(action: Callable[[Assignment], _Result], assignments: Sequence[Assignment]) -> dict[str, _Result]:
    """Return name -> `action` of each, the largest first; on CPU in parallel threads, where that is worth it.

    Every parameter has a generator of its own, so the order does not matter; torch releases the GIL while it fills.
    The largest need most memory beside them: if that runs out, then before others are written.
    Small ones are not worth it: two threads would wait for the GIL, up to 5 ms each time, longer than they work.
    (Sharded parameters are read with collectives, whose order must be the same on every rank.)
    """
    threads, inference = torch.get_num_threads(), torch.is_inference_mode_enabled()
    largest_first = sorted(assignments, key=lambda one: -one.place.parameter.numel())
    parameters = [assignment.place.parameter for assignment in assignments]
    if threads == 1 or any(p.device.type != "cpu" or isinstance(p, DTensor) for p in parameters):
        return {assignment.name: action(assignment) for assignment in largest_first}

    def work(assignment: Assignment) -> tuple[str, _Result]:
        torch.set_num_threads(1)  # of this thread: the parallelism is over parameters
        with torch.inference_mode(inference):  # a setting of the thread too
            return assignment.name, action(assignment)

    try:
        large = [assignment for assignment in largest_first if assignment.place.parameter.numel() >= _LARGE]
        with ThreadPoolExecutor(threads) as pool:
            found = dict(pool.map(work, large))
        return found | dict(map(work, largest_first[len(large) :]))
    finally:
        torch.set_num_threads(threads)


# --- reading back ---------------------------------------------------------------------------------------------------


def _achieved_std(assignment: Assignment) -> float | None:
    """Return the population std of the effective value (without a padding row); None without one to be read."""
    if any(parameter.is_meta for parameter in assignment.place.stored.values()):
        return None
    try:
        value = assignment.place.read()
    except NotImplementedError:  # a kept one; what is written was read before
        return None
    if value.layout != torch.strided or not _takes_values(value.dtype, value.device):
        return None
    if isinstance(value, DTensor):
        value = value.full_tensor()
    padding = assignment.layout.padding_row if assignment.layout is not None else None
    parts = (value,) if padding is None else (value[:padding], value[padding % len(value) + 1 :])
    std = population_std(*parts)
    return std if math.isfinite(std) else None


def population_std(*parts: Tensor) -> float:
    """Return the population std of all `parts`, reduced in float32 chunks that are summed in float64; NaN if empty.

    >>> round(population_std(torch.tensor([3.0, 1.0])), 6)
    1.0
    """
    if parts[0].is_complex():
        pairs = [torch.view_as_real(part) for part in parts]
        return math.hypot(*(population_std(*(pair[..., i] for pair in pairs)) for i in range(2)))
    if all(part.numel() == 0 for part in parts):
        return math.nan
    if parts[0].device.type != "cpu":
        value = parts[0] if len(parts) == 1 else torch.cat(parts)
        return float(_at_least_float32(value).var(correction=0).sqrt())
    count, mean, squares = 0, 0.0, 0.0  # squares: sum of squared deviations from the mean so far (Chan et al. 1979)
    for chunk in (chunk for part in parts for chunk in _chunks(part.detach())):
        n, chunk_mean, chunk_squares = _moments(_at_least_float32(chunk))
        delta, total = chunk_mean - mean, count + n
        squares += chunk_squares + delta**2 * count * n / total
        mean += delta * n / total
        count = total
    return math.sqrt(squares / count)


def _chunks(value: Tensor) -> Sequence[Tensor]:
    """Return all entries as vectors that stay in cache; views, if `value` is dense in any order of its dimensions."""
    order = sorted(range(value.ndim), key=value.stride, reverse=True)
    return torch.split(value.permute(order).reshape(-1), _CHUNK) if value.numel() else ()


def _moments(chunk: Tensor) -> tuple[int, float, float]:
    """Return count, mean and sum of squared deviations, by sums and products, which torch.var does not keep up with."""
    n, mean, squares = chunk.numel(), float(chunk.sum()) / chunk.numel(), float(torch.dot(chunk, chunk))
    if n * mean**2 > 0.9 * squares:  # the difference would cancel
        deviations = chunk - mean
        return n, mean, float(torch.dot(deviations, deviations))
    return n, mean, squares - n * mean**2


def _at_least_float32(value: Tensor) -> Tensor:
    return value if value.dtype in (torch.float32, torch.float64) else value.to(torch.float32)
