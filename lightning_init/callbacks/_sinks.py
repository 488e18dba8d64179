"""Where values go: the loggers of a Trainer, each in the way it likes best."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt
from lightning.pytorch import Trainer
from torch import Tensor

from lightning_init.callbacks._trainer import is_a
from lightning_init.event_writer import EventWriter

if TYPE_CHECKING:
    from lightning.pytorch.loggers import TensorBoardLogger


class Sinks:
    """The loggers of `trainer` as they are when a fit starts; only rank zero has any.

    Args:
        trainer: about to fit.
        tags: of all series that there may be, also of those that begin later (layers that are frozen at first).
    """

    def __init__(self, trainer: Trainer, tags: Sequence[str]) -> None:
        loggers = trainer.loggers if trainer.is_global_zero else []
        self._tensorboards = [cast("TensorBoardLogger", one) for one in loggers if is_a(one, "TensorBoardLogger")]
        self._others = [logger for logger in loggers if logger not in self._tensorboards]
        self._events = [EventWriter(logger.experiment, _prefix(logger)) for logger in self._tensorboards]
        self._tags = tags
        self._laid_out = False

    def write(self, index: int, values: dict[str, float]) -> None:
        """Write the values of one step: one event, one `log_metrics` call."""
        for writer in self._events:
            if not self._laid_out:
                writer.write_layout("signals", self._tags)
            writer.write(index, values)
        self._laid_out = True
        for logger in self._others:
            logger.log_metrics(values, step=index)

    def write_histograms(self, index: int, samples: dict[str, Tensor]) -> None:
        """Write histograms of what is finite, on TensorBoard."""
        for logger in self._tensorboards:
            for tag, values in samples.items():
                finite = values[values.isfinite()].float()
                if finite.numel():
                    logger.experiment.add_histogram(f"{_prefix(logger)}{tag}", finite, index)

    def write_image(self, tag: str, image: npt.NDArray[np.uint8], index: int) -> None:
        """Write an image `(height, width, 3)`, where there is a place for it."""
        for logger in self._tensorboards:
            logger.experiment.add_image(tag, image, index, dataformats="HWC")

    def write_text(self, tag: str, text: str, index: int) -> None:
        """Write text, where there is a place for it."""
        for logger in self._tensorboards:
            logger.experiment.add_text(tag, text, index)

    @property
    def directory(self) -> str | None:
        """Where the event files are; None without TensorBoard."""
        return self._tensorboards[0].log_dir if self._tensorboards else None

    def flush(self) -> None:
        """Bring everything written to disk."""
        for writer in self._events:
            writer.flush()
        for logger in self._others:
            logger.save()


def require_tensorboard(trainer: Trainer, asked: Sequence[str]) -> None:
    """Refuse to draw what no logger of `trainer` can show.

    Args:
        trainer: about to fit.
        asked: the arguments that ask for pictures.

    Raises:
        ValueError: if there are any, and no TensorBoard logger.
    """
    kinds = [type(one).__name__ for one in trainer.loggers]
    shown = any(is_a(one, kind) for one in trainer.loggers for kind in ("TensorBoardLogger", "DummyLogger"))
    if asked and not shown and not trainer.barebones:
        raise ValueError(
            f"{' and '.join(asked)}: only TensorBoard shows pictures, and the Trainer has"
            f" {' and '.join(kinds) or 'no logger'}; give it a TensorBoardLogger, or leave them out"
        )


def _prefix(logger: TensorBoardLogger) -> str:
    """Return what the logger puts before each tag (it has no public name)."""
    prefix = getattr(logger, "_prefix", "")
    return f"{prefix}{logger.LOGGER_JOIN_CHAR}" if prefix else ""
