"""A calibration within a Trainer: on rank zero, with a batch of its training data, and the same on every rank."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from lightning_init import initializers
from lightning_init._running import call_of
from lightning_init.auto import Auto
from lightning_init.calibration import Calibration, apply_calibrated_
from lightning_init.calibration.batches import undrawn
from lightning_init.callbacks._data import first_batches, ready, taking_batches, training_data
from lightning_init.callbacks._trainer import is_a
from lightning_init.plan import Plan
from lightning_init.report import Report
from lightning_init.rules import InitializerLike

_LINES = 10  # of progress


@contextmanager
def looking(trainer: Trainer, pl_module: LightningModule, initializer: InitializerLike) -> Iterator[InitializerLike]:
    """Yield what the plan is made with: `auto` sees what rank zero has, so that every rank chooses the same.

    That is its `batch`, the module's `example_input_array`, or the first training batch, if there is one.
    """
    found = initializers.get(initializer)
    if not isinstance(found, Calibration):
        yield initializer
        return
    if not isinstance(found, Auto):
        yield found.start
        return
    example = pl_module.example_input_array
    with ExitStack() as stack:
        if found.batch is not None:
            own = trainer.strategy.broadcast(found.batch)
            found = replace(found, batch=stack.enter_context(taking_batches(pl_module, [own]))[0])
        elif example is not None:
            stack.callback(setattr, pl_module, "example_input_array", example)
            pl_module.example_input_array = trainer.strategy.broadcast(example)
        else:
            found = found.seeing(_first_arguments(trainer, pl_module, stack))
        yield found.start


def _first_arguments(trainer: Trainer, pl_module: LightningModule, stack: ExitStack) -> object:
    """Return the first training batch of rank zero for `pl_module(...)`, until `stack` closes; None without one."""
    stack.enter_context(undrawn(()))
    try:
        (arguments,) = stack.enter_context(taking_batches(pl_module, _batches_of_rank_zero(trainer, stack)))
        call_of(pl_module, arguments)
    except (TypeError, ValueError) as error:
        rank_zero_info(f"InitCallback: auto does without a batch: {error}")
        return None
    return arguments


def _batches_of_rank_zero(trainer: Trainer, stack: ExitStack) -> list[object]:
    """Return the first batch in a list; raise ValueError on every rank if rank zero cannot have it."""
    batches, failure = None, ""
    data = training_data(trainer)  # on every rank: making it may be collective
    if trainer.is_global_zero:
        try:
            batches = stack.enter_context(first_batches(trainer, data))
        except Exception as error:  # noqa: BLE001 - the other ranks wait; training will fail on it by itself
            failure = str(error) or type(error).__name__
    batches, failure = trainer.strategy.broadcast((batches, failure))
    if batches is None:
        raise ValueError(failure)
    return batches


def calibrated(trainer: Trainer, pl_module: LightningModule, plan: Plan, calibration: Calibration) -> Report:
    """Write `plan` into `pl_module`, calibrate it, and return the report; every rank ends with the same values.

    Raises:
        RuntimeError: on the other ranks, where rank zero has failed.
        TypeError, ValueError: as `apply_calibrated_`; the model is then exactly as it was.
    """
    report, failure = None, None
    with undrawn(()):
        data = None if calibration.brings else training_data(trainer)  # on every rank: making it may be collective
        if trainer.is_global_zero:
            try:
                report = _on_rank_zero(trainer, pl_module, plan, calibration, data)
            except Exception as error:  # noqa: BLE001 - told to the other ranks, which would wait for ever
                failure = error
    message = trainer.strategy.broadcast(None if failure is None else f"{type(failure).__name__}: {failure}")
    if failure is not None:
        raise failure
    if message is not None:
        raise RuntimeError(f"the calibration on rank zero has failed: {message}")
    if trainer.world_size > 1:
        for assignment in plan.assignments:
            for parameter in assignment.place.stored.values():
                parameter.data.copy_(trainer.strategy.broadcast(parameter.data))
    everywhere = trainer.strategy.broadcast(report)
    assert everywhere is not None
    return everywhere


def _on_rank_zero(
    trainer: Trainer, pl_module: LightningModule, plan: Plan, calibration: Calibration, data: object
) -> Report:
    where = "the batch that it was given" if calibration.brings else "the training data"
    rank_zero_info(f"InitCallback: calibrating with {calibration.label} on {where}.")
    own = nullcontext([ready(trainer, batch) for batch in calibration.brings])
    taken = own if calibration.brings else first_batches(trainer, data, calibration.takes)
    with taken as batches, taking_batches(pl_module, batches) as arguments:
        return apply_calibrated_(plan, pl_module, calibration, arguments, _say)[0]


def _say(layer: str, done: int, total: int) -> None:
    """Show progress in a few lines, however many layers there are."""
    if done == total or done % max(1, total // _LINES) == 0:
        rank_zero_info(f"InitCallback: calibrated {layer}, {done} of {total} layers.")


def refuse_shards(trainer: Trainer) -> None:
    """Raise NotImplementedError for a strategy under which no rank can run the whole model by itself."""
    if not any(is_a(trainer.strategy, name) for name in ("SingleDeviceStrategy", "DDPStrategy")):
        raise NotImplementedError(
            f"a calibration runs the whole model on rank zero, and {type(trainer.strategy).__name__} shards it: use "
            "lightning_init.calibrate before training, and Trainer without a calibration"
        )
