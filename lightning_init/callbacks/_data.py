"""Batches of a Trainer's training data before training begins, and how its model takes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from itertools import islice

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch.utils._pytree import tree_flatten, tree_unflatten

from lightning_init._running import call_of
from lightning_init.calibration.batches import undrawn
from lightning_init.callbacks._trainer import is_a


def training_data(trainer: Trainer) -> object:
    """Return the Trainer's training data: a DataLoader, any iterable, or a collection of these.

    Raises:
        ValueError: if there are none.
        TypeError: if they can be read only once.
    """
    source = trainer.fit_loop._data_source  # noqa: SLF001 (where Lightning keeps it until the fit loop runs)
    data = source.dataloader() if source.is_defined() else None
    if data is None:
        raise ValueError("a calibration needs training data, and the Trainer has none (no train_dataloader)")
    if isinstance(data, Iterator):
        raise TypeError(
            f"the training data are a {type(data).__name__}, which can be read only once: a batch for the calibration "
            "would be missing in training; give a DataLoader, or use lightning_init.calibrate before"
        )
    if isinstance(data, CombinedLoader):
        return data.flattened[0] if data._mode == "sequential" else data.iterables  # noqa: SLF001 (no public name)
    return data


@contextmanager
def first_batches(trainer: Trainer, data: object, number: int = 1) -> Iterator[list[object]]:
    """Yield the first batches as training would see them, on the device of the strategy; no data are used up."""
    with ExitStack() as stack:
        loaders, structure = tree_flatten(data)  # Lightning takes collections of loaders
        streams = zip(*[stack.enter_context(undrawn(loader)) for loader in loaders], strict=False)
        batches = [tree_unflatten(batch, structure) for batch in islice(streams, number)]
        if not batches:
            kinds = ", ".join(type(loader).__name__ for loader in loaders)
            raise ValueError(f"the training data are empty: {kinds} gives no batch to calibrate with")
        yield [ready(trainer, batch) for batch in batches]


def ready(trainer: Trainer, batch: object) -> object:
    """Return the batch as training would see it: on the device of the strategy, in the precision of its inputs."""
    return trainer.precision_plugin.convert_input(trainer.strategy.batch_to_device(batch))


@contextmanager
def taking_batches(pl_module: LightningModule, batches: list[object]) -> Iterator[list[object]]:
    """Yield the batches for `pl_module(...)`; where that cannot take them it runs its `training_step` meanwhile.

    That is so without a `forward`, and for dicts whose keys `forward` does not name: only `training_step` knows what of
    them is the input. What that step logs is dropped, and its metrics are put back.
    """
    if is_overridden("forward", pl_module, LightningModule):
        foreign = isinstance(batches[0], Mapping) and not call_of(pl_module, batches[0]).kwargs
        if not (foreign and pl_module.automatic_optimization):
            yield batches
            return
    if not pl_module.automatic_optimization:
        raise ValueError(
            f"{type(pl_module).__name__} has no forward, and its training_step optimizes by itself: give it a forward "
            "that takes a batch's inputs, or use lightning_init.calibrate before"
        )
    silent = {"log": lambda *_, **__: None, "log_dict": lambda *_, **__: None}
    before = {name: vars(pl_module)[name] for name in (*silent, "forward") if name in vars(pl_module)}
    metrics = [(one, deepcopy(vars(one))) for one in pl_module.modules() if is_a(one, "Metric")]

    def step(batch: object) -> object:
        del vars(pl_module)["forward"]  # which the step may call
        try:
            return pl_module.training_step(batch, 0)
        finally:
            vars(pl_module)["forward"] = step

    vars(pl_module).update(silent, forward=step)
    try:
        yield [(batch,) for batch in batches]
    finally:
        for name in (*silent, "forward"):
            vars(pl_module).pop(name, None)
        vars(pl_module).update(before)
        for metric, state in metrics:
            vars(metric).update(state)
