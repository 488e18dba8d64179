"""SignalMonitor: shows weights, activations and gradients of every layer at every step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from lightning_init.callbacks._alarm import inspect, speak
from lightning_init.callbacks._sinks import Sinks, require_tensorboard
from lightning_init.callbacks._step import gather_from, parameters_of, scale_of, step_index
from lightning_init.callbacks._trainer import (
    PLANNED,
    callbacks_of,
    compiled,
    is_a,
    refuse_strategy,
    whole_parameters,
)
from lightning_init.signals.alerts import Alert, Watch
from lightning_init.signals.cadence import Cadence, Every, as_cadence
from lightning_init.signals.catalogue import Wanted
from lightning_init.signals.forecast import ACTIVATION, Forecast, comparison, planned
from lightning_init.signals.gradients import TOTAL
from lightning_init.signals.history import read_history
from lightning_init.signals.layers import check_globs
from lightning_init.signals.pictures import depth_profile, every_picture, heat_map, require_matplotlib
from lightning_init.signals.probe import Probe
from lightning_init.signals.reading import Gather, Reading
from lightning_init.signals.shards import make_shards

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LOOK = 100  # steps after which the next epoch begins with a look at whether layers were replaced


class SignalMonitor(Callback):
    """Logs statistics of the signals of every layer, on the step axis of `self.log`.

    Point 0 is the untouched initial network: its activations, its gradients, and its weights before the first update.
    On TensorBoard a point is one event, on other loggers one `log_metrics` call; without a logger the values are in
    `last` alone.

    Args:
        every_n_steps: log the steps whose index is a multiple of this; or a cadence such as
            `lightning_init.signals.cadence.Logarithmic()`, or any callable from index to bool.
        weights: statistics of each layer's effective weight, before the step's update.
        activations: statistics of each layer's output, pooled over the forwards of the step.
        gradients: statistics of the gradient of each layer's own parameters, unscaled and before clipping.
        updates: statistics of the change of each layer's weight.
        layers: globs over layer names; None takes all, and an empty tuple none, for `gradient_norm_total` alone.
        histograms_every_n_steps: log histograms on TensorBoard as well, of steps that are logged; None logs none.
        sync_dist: pool activations over the ranks.
        images: at the end of the fit, put a heat map and a depth profile of each series on TensorBoard (needs
            matplotlib).
        alerts: watch for signals that vanish, explode, die; `"raise"` stops the training at the first.

    Attributes:
        last: index and tag -> value of the latest point.
        alerts: every `Alert` so far; each is also a warning, and text on TensorBoard.
        expected: tag -> what `InitCallback` planned and theory predicts for point 0, in a fit that began with an
            initialization and has a TensorBoard logger; there it is a text, beside what was measured.

    Raises:
        TypeError, ValueError: naming the argument, at construction; where layers are concerned, when `fit` starts.
        NotImplementedError: when `fit` starts, for a strategy that is not supported (DeepSpeed).

    >>> SignalMonitor(every_n_steps=0)
    Traceback (most recent call last):
    ...
    ValueError: every_n_steps must be at least 1, got 0
    """

    def __init__(
        self,
        every_n_steps: int | Cadence = 1,
        *,
        weights: Sequence[str] = ("variance",),
        activations: Sequence[str] = ("variance",),
        gradients: Sequence[str] = ("norm",),
        updates: Sequence[str] = (),
        layers: str | Sequence[str] | None = None,
        histograms_every_n_steps: int | None = None,
        sync_dist: bool = False,
        alerts: bool | Literal["raise"] = True,
        images: bool = False,
    ) -> None:
        self.every_n_steps = every_n_steps
        self._wants = as_cadence(every_n_steps)
        self.wanted = Wanted(weights, activations, gradients, updates)
        check_globs(layers)
        self.layers = layers
        if histograms_every_n_steps is not None:
            Every(histograms_every_n_steps, "histograms_every_n_steps")
        self.histograms_every_n_steps = histograms_every_n_steps
        if sync_dist and "zero_fraction" in self.wanted.activations:
            raise ValueError(
                "activations: zero_fraction counts the units that are zero in all of a batch, and sync_dist=True cannot"
                ' follow them over ranks; ask for "sparsity" (the share of zeros), or sync_dist=False'
            )
        self.sync_dist = sync_dist
        if alerts not in (True, False, "raise"):
            raise ValueError(f'alerts must be True, False or "raise", got {alerts!r}')
        self.on_alert = alerts
        if images:
            require_matplotlib()
        self.images = images
        self.alerts: list[Alert] = []
        self.last: tuple[int, dict[str, float]] | None = None
        self.expected: dict[str, float] = {}
        self._forecast: Forecast | None = None
        self._probe: Probe | None = None
        self._watch: Watch | None = None
        self._sinks: Sinks | None = None
        self._directory: str | None = None  # of the event files
        self._told = False  # whether silent layers were reported
        self._root = ""  # the model's own name, which is silent when training_step does not call forward
        self._gather: Gather | None = None  # for sync_dist
        self._finishing = False  # whether the fit is over, so that there is nothing left to stop
        self._inspected = False  # whether the optimizers were looked at: once, at the first point
        self._open: int | None = None  # index of the point that is being measured
        self._scaled = False  # whether gradients come from AMP's GradScaler
        self._looked = 0  # when the module was last compared with what is followed
        self._suspicious = False  # whether it should be again
        self._counts: set[int] = set()  # how many values points had
        self._pending: tuple[int, Reading] | None = None  # measured, perhaps still on its way from the device

    def history(self) -> dict[str, dict[int, float]]:
        """Return tag -> step -> value of everything that was logged, read back from TensorBoard's event files.

        Raises:
            RuntimeError: without a TensorBoard logger: nothing was kept.
        """
        if self._gather is None:  # with it every rank must take part, and who knows who asks
            self._emit()
        if self._sinks is not None:
            self._sinks.flush()
        if self._directory is None:
            raise RuntimeError(
                "SignalMonitor.history() reads TensorBoard's event files, and there are none: train with"
                " Trainer(logger=TensorBoardLogger(...)) first, or read the files of the logger that was used; what"
                " worker processes (ddp_spawn, ddp_fork) have logged is read with signals.history.read_history"
            )
        return self._read(self._directory)

    def _read(self, directory: str) -> dict[str, dict[int, float]]:
        """Return what was logged, in depth order: layers that were frozen at first come later in the files."""
        places = {tag: place for place, tag in enumerate(self._probe.tags)} if self._probe is not None else {}
        history = read_history(directory)
        return {tag: history[tag] for tag in sorted(history, key=lambda tag: places.get(tag, len(places)))}

    def heat_map(self, series: str = "activation_variance") -> Figure:
        """Return a figure of one series: layer x step, the value as colour; save it with `savefig("name.png")`.

        Args:
            series: what stands before the slash of the tags.

        Raises:
            ValueError: if it was not logged.
            ImportError: without matplotlib.
            RuntimeError: without a TensorBoard logger.
        """
        return heat_map(self.history(), series)

    def depth_profile(self, series: str = "activation_variance") -> Figure:
        """Return a figure of one series over depth, at up to six steps; arguments and errors as of `heat_map`."""
        return depth_profile(self.history(), series, self.expected)

    # --- life: hooks exist from the start of fit to its end

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse strategies that keep gradients where nobody can read them, and a second monitor."""
        del pl_module
        if stage != "fit":
            return
        refuse_strategy(trainer, "SignalMonitor", "Train without it, or")
        if sum(isinstance(callback, SignalMonitor) for callback in callbacks_of(trainer)) > 1:
            raise ValueError("a Trainer takes one SignalMonitor: two would write every tag twice; keep one of them")
        pictures = {"images": self.images, "histograms_every_n_steps": self.histograms_every_n_steps is not None}
        require_tensorboard(trainer, [name for name, wanted in pictures.items() if wanted])

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Attach the hooks: every layer exists now, and nothing has been traced yet."""
        if trainer.barebones:
            rank_zero_warn("SignalMonitor logs nothing: Trainer(barebones=True) asks for no logging at all.")
            return
        if self._probe is None or self._probe.divided or not self._probe.describes(pl_module):
            self._probe = self._renew(trainer, pl_module)
        self._probe.attach()
        self.expected = {}
        self._sinks = Sinks(trainer, self._probe.tags)
        self._directory = self._sinks.directory
        gathers = trainer.world_size > 1 and (self.sync_dist or self._probe.divided)
        self._gather = gather_from(trainer) if gathers else None
        self._scaled = getattr(trainer.precision_plugin, "scaler", None) is not None

    def _renew(self, trainer: Trainer, pl_module: LightningModule) -> Probe:
        """Return a probe for the module as it is, and watch its layers afresh."""
        shards = make_shards(trainer.strategy.model or pl_module)
        with whole_parameters(trainer, lasting=True):  # FSDP shows slices, which do not tell what is a weight
            probe = Probe(pl_module, self.wanted, self.layers, shards)
            self._watch = Watch(probe.layers) if self.on_alert else None
        self._inspected = self._told = False
        self._counts, self._suspicious, self._looked = set(), False, step_index(trainer)
        self._root = type(pl_module).__name__
        return probe

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log what is left and remove the hooks."""
        del pl_module
        self._finish(images=self.images and trainer.is_global_zero)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Log what is left and remove the hooks."""
        del trainer, pl_module, exception
        self._finish(failed=True)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Remove the hooks, however the fit ended."""
        del trainer, pl_module, stage
        self._finish()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, object]) -> None:
        """Bring every point before the checkpoint to disk."""
        del trainer, pl_module, checkpoint
        self._emit()
        if self._sinks is not None:
            self._sinks.flush()

    # --- a step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        """Begin a point, or go on with the one whose micro-batches are not all there."""
        if self._probe is None:
            return
        index = step_index(trainer)
        if self._suspicious or (batch_idx == 0 and index >= self._looked + _LOOK):
            self._look_again(trainer, pl_module, index)
        if self._open == index:
            self._probe.resume()
            return
        self._close()
        if self._wants(index):
            self._open = index
            every = self.histograms_every_n_steps
            self._probe.open(histograms=every is not None and index % every == 0)
            if index == 0:
                self._expect(trainer, pl_module, batch)

    def _look_again(self, trainer: Trainer, pl_module: LightningModule, index: int) -> None:
        """Follow the layers that the module has by now: some may have been replaced since the last look."""
        assert self._probe is not None
        self._looked, self._suspicious = index, False
        if not self._probe.divided and not self._probe.describes(pl_module):
            self._close()
            self._probe.detach()
            self._probe = self._renew(trainer, pl_module)
            self._probe.attach()

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """End the watch over the first forward."""
        del trainer, pl_module, loss
        self._foresee()

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Measure gradients, unscaled and not yet clipped, and weights, not yet updated."""
        del pl_module
        if self._probe is not None and self._open is not None:
            scale = scale_of(optimizer, trainer) if self._scaled else None
            self._probe.before_update(parameters_of(optimizer, trainer), scale)
            if self._watch is not None and (self._watch.more or not self._inspected):
                first, self._inspected = not self._inspected, True
                self._alert(inspect(self._watch, self._open, trainer, first=first))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Finish the point if its step was taken."""
        del trainer, outputs, batch, batch_idx
        self._foresee()
        if self._probe is None or self._open is None:
            return
        if self._probe.steps or not pl_module.automatic_optimization:
            self._close()
        else:
            self._probe.pause()

    def _expect(self, trainer: Trainer, pl_module: LightningModule, batch: object) -> None:
        """Take over what was planned for the untouched network, and have theory follow the forward that comes."""
        dummy = any(is_a(one, "DummyLogger") for one in trainer.loggers)
        rehearsal = dummy and not trainer.fast_dev_run  # type: ignore[attr-defined]  # of a tuner; set by a connector
        report = None if rehearsal else vars(pl_module).pop(PLANNED, None)
        if report is None or self._directory is None or self._probe is None:
            return
        self.expected = planned(report, self._probe.layers)
        if not self._probe.divided and not compiled(pl_module):
            self._forecast = Forecast(pl_module)
            self._forecast.start(batch)

    def _foresee(self) -> None:
        forecast, self._forecast = self._forecast, None
        if forecast is not None:
            self.expected.update({f"{ACTIVATION}/{name}": one for name, one in forecast.stop().items()})

    def _close(self) -> None:
        """Hand the point over; what was measured on a device is logged a step later, when it has arrived."""
        if self._probe is None or self._open is None:
            return
        point, self._open = (self._open, self._probe.close()), None
        self._tell_silent()
        if self._probe.samples and self._sinks is not None:
            self._sinks.write_histograms(point[0], self._probe.samples)
        self._emit()
        self._pending = point
        if not point[1].travels:
            self._emit()

    def _emit(self) -> None:
        if self._pending is None or self._sinks is None:
            return
        (index, reading), self._pending = self._pending, None
        values = reading.values(self._gather, activations=self.sync_dist)
        if self._scaled and not math.isfinite(values.get(TOTAL, 0.0)):
            values["step_skipped"] = 1.0  # the scaler takes no step with such gradients
        self.last = index, values
        if len(values) not in self._counts:  # another number may come of another layer
            self._suspicious = bool(self._counts)
            self._counts.add(len(values))
        self._sinks.write(index, values)
        if index == 0 and self.expected:
            self._sinks.write_text("predicted_and_measured", comparison(self.expected, values), index)
        if self._watch is not None:
            self._alert(self._watch.check(index, values, scaled=self._scaled, lone=reading.lone))

    def _tell_silent(self) -> None:
        """Say once which layers have no activation, and why."""
        if self._probe is not None and not self._told:
            self._told = True
            silent = [f"{name} ({reason})" for name, reason in self._probe.silent.items() if name != self._root]
            if silent:
                rank_zero_info(f"SignalMonitor has no activations of {len(silent)} layers: {'; '.join(silent[:10])}")

    def _alert(self, alerts: list[Alert]) -> None:
        self.alerts += alerts
        speak(alerts, self._sinks, stop=self.on_alert == "raise" and not self._finishing)

    def _finish(self, *, failed: bool = False, images: bool = False) -> None:
        self._finishing = True
        self._foresee()
        if failed:
            self._gather = None  # the other ranks may never come
        if self._probe is not None:
            try:
                if self._probe.steps or failed:  # of the step that failed, what there is
                    self._told |= failed
                    self._close()
                self._emit()
            except RuntimeError:
                if not failed:  # a device that fails again must not hide why it failed
                    raise
            self._probe.detach()
        if self._sinks is not None:
            self._sinks.flush()
            if images and self._directory is not None and self.last is not None:
                for tag, picture in every_picture(self._read(self._directory), self.expected):
                    self._sinks.write_image(tag, picture, self.last[0])
                self._sinks.flush()
        self._open, self._sinks, self._finishing = None, None, False

    def __getstate__(self) -> dict[str, object]:
        """Leave out what belongs to a running fit: hooks, open files."""
        return {
            **self.__dict__,
            "_probe": None,
            "_watch": None,
            "_forecast": None,
            "_sinks": None,
            "_open": None,
            "_pending": None,
            "_gather": None,
        }
