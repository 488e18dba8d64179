"""Lightning callbacks of a run: what happened in each epoch, and an end to training that has diverged."""

from __future__ import annotations

import math
from collections.abc import Callable

import lightning as pl
import torch


class History(pl.Callback):
    """Keeps every epoch metric in `epochs`: name -> one value per epoch, with `epoch` and `step` (optimizer steps)."""

    def __init__(self) -> None:
        self.epochs: dict[str, list[float]] = {}

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Append the metrics of the epoch, validation included."""
        del pl_module
        row = {name: float(value) for name, value in trainer.callback_metrics.items()}
        row |= {"epoch": trainer.current_epoch + 1, "step": trainer.global_step}
        for name, value in row.items():
            self.epochs.setdefault(name, []).append(value)

    @property
    def diverged(self) -> bool:
        """Whether any training loss was infinite or not a number."""
        return not all(math.isfinite(loss) for loss in self.epochs.get("train_loss", []))


class Measure(pl.Callback):
    """Calls `function` with the module and the data once the network is initialized; keeps the numbers in `found`."""

    def __init__(self, function: Callable[[pl.LightningModule, pl.LightningDataModule], dict[str, float]]) -> None:
        self.function = function
        self.found: dict[str, float] = {}

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure, without a trace in the global stream, the gradients or the mode of the module."""
        with torch.random.fork_rng():
            self.found = {name: float(value) for name, value in self.function(pl_module, trainer.datamodule).items()}
        pl_module.zero_grad()


class StopWhenDiverged(pl.Callback):
    """Ends training after the epoch in which the loss was not finite: it does not come back."""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check once per epoch, on the value that Lightning has already reduced."""
        del pl_module
        if not math.isfinite(float(trainer.callback_metrics.get("train_loss", 0.0))):
            trainer.should_stop = True
