"""InitCallback: initializes the model of a Trainer once, at the one right moment, and starts the monitor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from lightning_init import initializers
from lightning_init._names import clean
from lightning_init.apply import apply_
from lightning_init.calibration import Calibration
from lightning_init.callbacks import _marks
from lightning_init.callbacks._calibrating import calibrated, looking, refuse_shards
from lightning_init.callbacks._settings import plain, plain_rule, record, recorded
from lightning_init.callbacks._trainer import (
    PLANNED,
    after_next,
    callbacks_of,
    on_meta,
    refuse_strategy,
    renew_averages,
    whole_parameters,
    write_text,
)
from lightning_init.callbacks.signal_monitor import SignalMonitor
from lightning_init.nonlinearities import Nonlinearity
from lightning_init.options import FansFrom, Frozen, check_options
from lightning_init.plan import Plan, make_plan
from lightning_init.report import Report
from lightning_init.rules import InitializerLike, Rules, normalize_rules

_REPORT = "_lightning_init_report"  # on the LightningModule: survives deepcopy and pickling, is in no state_dict
_SETTINGS = "_lightning_init_settings"  # the same: by which its weights began, perhaps in another run
_NAME = "init_callback"  # of the settings in a checkpoint


class InitCallback(Callback):
    """Initializes the LightningModule before `fit`, exactly once, and monitors its signals.

    It acts after `LightningModule.setup` and `configure_model` have built the layers, before a checkpoint is restored
    (which therefore wins) and before the strategy copies or shards the model; where parameters have no memory until
    then (meta device), right after the strategy has given them memory. A layer that a fit has initialized is never
    initialized again, by this or any other InitCallback: call `lightning_init.initialize` to start over.

    Args:
        initializer: a name (see `initializers.names()`) or an instance. A calibration (`"lsuv"`) looks at the first
            batch of the training data, on rank zero and not where a checkpoint is restored; training sees the same
            data in the same order as without.
        rules: glob over parameter names -> name, instance or None (leave as it is), or a sequence of `Rule`s.
        nonlinearity: None keeps the initializer's own convention; a name or callable uses its gain; `"auto"` finds
            what follows each layer. It does not reach what a rule claims: `Rule` has its own.
        bias: initializer of the biases; None leaves them.
        frozen: `"skip"` leaves parameters with `requires_grad=False` alone; `"initialize"` does not.
        seed: of the private generators; None derives it from the global seed. The global stream is never advanced.
        strict: raise if a parameter is left at its default because nothing knows it.
        monitor: True adds a `SignalMonitor()` (unless the Trainer has one), an instance adds that one, False none.
        fans: `"torch"` reads the fans off the tensor as torch.nn.init does; for parity with older code.

    Attributes:
        report: what `lightning_init.initialize` returns, once the model is initialized; None before.

    Raises:
        TypeError, ValueError: at construction or before training starts, naming the argument and the fix.
        NotImplementedError: when `fit` starts, for a strategy that is not supported (DeepSpeed), or a calibration of
            sharded parameters.

    >>> callback = InitCallback("xavier_uniform", rules={"head.*": "zeros"}, seed=0)
    >>> InitCallback("xavier_unifrom")
    Traceback (most recent call last):
    ...
    ValueError: initializer must be one of ... the closest are: xavier_uniform, ...
    """

    def __init__(
        self,
        initializer: InitializerLike,
        *,
        rules: Rules | None = None,
        nonlinearity: Nonlinearity | None = None,
        bias: InitializerLike | None = "zeros",
        frozen: Frozen = "skip",
        seed: int | None = None,
        strict: bool = False,
        monitor: bool | SignalMonitor = True,
        fans: FansFrom = "module",
    ) -> None:
        check_options(
            initializer, rules=rules, bias=bias, frozen=frozen, seed=seed, fans=fans, nonlinearity=nonlinearity
        )
        if not isinstance(monitor, (bool, SignalMonitor)):
            raise TypeError(f"monitor must be True, False or a SignalMonitor, got {monitor!r}")
        self.initializer = initializer
        found = initializers.get(initializer)
        self.calibration = found if isinstance(found, Calibration) and found.needs_data else None
        self.rules = rules
        self.nonlinearity = nonlinearity
        self.bias = bias
        self.frozen = frozen
        self.seed = seed
        self.strict = strict
        self.fans = fans
        self.monitor = SignalMonitor() if monitor is True else (monitor or None)
        self._configured = isinstance(monitor, SignalMonitor)
        self.report: Report | None = None
        self._unwrap: Callable[[], None] | None = None
        self._uncalibrated: Plan | None = None
        self._undo: list[Callable[[], None]] = []  # of what is not calibrated yet
        self._fresh = False  # whether it was initialized for the fit that begins
        self._waits = False  # for memory: the strategy materializes the parameters
        self._saved = False  # in this run: what is loaded later is put back, by the batch-size finder
        self._early: dict[str, torch.dtype] = {}  # in a worker: the parameters that the main process has, too
        self._ledger = _marks.ledger()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Arrange for the initialization to follow `configure_model`; add the monitor to the Trainer."""
        self._saved = False
        if stage != "fit":
            return
        self._refuse_rivals(trainer)
        refuse_strategy(
            trainer,
            "InitCallback",
            "Build the layers in LightningModule.__init__ and end it with lightning_init.initialize(self, ...), or",
        )
        if self.calibration is not None:
            refuse_shards(trainer)
        self._add_monitor(trainer)
        if _marks.is_worker():
            self._recognize(pl_module)
        self._unwrap = after_next(pl_module, "setup", lambda: self._on_model_set_up(trainer, pl_module))

    def _on_model_set_up(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._unwrap = after_next(pl_module, "configure_model", lambda: self._on_model_configured(trainer, pl_module))

    def _on_model_configured(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._waits = on_meta(pl_module) and trainer.strategy.restore_checkpoint_after_setup
        if not self._waits:
            with whole_parameters(trainer):
                self._initialize(trainer, pl_module)
            renew_averages(trainer, pl_module)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Initialize what got its memory only now (no checkpoint is restored yet); write the report to TensorBoard.

        By now it is known whether a checkpoint was restored, and the model is on its device: time to calibrate.
        """
        if self._waits:
            self._waits = False
            with whole_parameters(trainer):
                self._initialize(trainer, pl_module)
        if self._uncalibrated is not None:
            self._calibrate(trainer, pl_module)
            renew_averages(trainer, pl_module)
        monitored = any(isinstance(callback, SignalMonitor) for callback in callbacks_of(trainer))
        if self._fresh and monitored and trainer.ckpt_path is None:
            vars(pl_module)[PLANNED] = self.report
        self._fresh = False
        if self.report is not None:
            write_text(trainer, "initialization", self.report.to_markdown())

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Record the settings in the checkpoint."""
        del trainer
        self._saved = True
        record(checkpoint, _NAME, vars(pl_module).get(_SETTINGS) or self.settings(), pl_module)

    def settings(self) -> dict[str, object]:
        """Return the arguments in plain types; the seed is the one that was used, once there is one.

        >>> InitCallback("normal", rules={"head.*": None}, seed=0).settings()["rules"]
        [{'pattern': 'head.*', 'initializer': None}]
        """
        return {
            "initializer": plain(self.initializer),
            "rules": [plain_rule(rule) for rule in normalize_rules(self.rules)],
            "nonlinearity": plain(self.nonlinearity),
            "bias": plain(self.bias),
            "frozen": self.frozen,
            "seed": self.seed if self.report is None else self.report.seed,
            "strict": self.strict,
            "fans": self.fans,
        }

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep what `validate`, `test` or `predict` has loaded: a later `fit` goes on training it.

        And remember by which settings the weights once began.
        """
        vars(pl_module)[_SETTINGS] = recorded(checkpoint, _NAME)
        if trainer.state.fn != "fit" and not self._saved:
            _marks.mark_loaded(pl_module, checkpoint.get("state_dict", {}))

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Take back the wrapping of what was never called."""
        del trainer, pl_module, exception
        self._restore()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take back the wrapping of what was never called; in a worker, remember the weights."""
        self._restore()
        if stage == "fit" and _marks.is_worker() and trainer.local_rank == 0:
            fingerprint = _marks.fingerprint(pl_module, self._early)
            if fingerprint is not None:
                _marks.enter(self._ledger, fingerprint)

    def _restore(self) -> None:
        self._waits, self._uncalibrated, self._undo = False, None, []
        if self._unwrap is not None:
            self._unwrap()
            self._unwrap = None

    def _recognize(self, pl_module: LightningModule) -> None:
        """Mark the layers of a module whose weights came out of an earlier fit in another worker."""
        self._early = _marks.dtypes(pl_module)
        fingerprint = _marks.fingerprint(pl_module, self._early)
        if fingerprint is not None and _marks.entered(self._ledger, fingerprint):
            _marks.mark(pl_module)

    def _refuse_rivals(self, trainer: Trainer) -> None:
        if sum(isinstance(callback, InitCallback) for callback in callbacks_of(trainer)) > 1:
            raise ValueError("a Trainer takes one InitCallback; say what differs between layers with its rules")

    def _add_monitor(self, trainer: Trainer) -> None:
        """Insert the monitor right behind this callback: Lightning then calls its hooks, `setup` included."""
        callbacks = callbacks_of(trainer)
        if self.monitor is None or self.monitor in callbacks:
            return
        if not any(isinstance(callback, SignalMonitor) for callback in callbacks):
            callbacks.insert(callbacks.index(self) + 1, self.monitor)
        elif self._configured:
            rank_zero_warn(
                "InitCallback does not use the SignalMonitor of its argument monitor, since the Trainer has another one"
                " among its callbacks; remove one of the two"
            )

    def _initialize(self, trainer: Trainer, pl_module: LightningModule) -> None:
        fresh = _marks.fresh(pl_module)
        if not fresh:
            self._leave(pl_module)
            return
        seed = self.seed if self.seed is not None else trainer.strategy.broadcast(torch.initial_seed())
        with looking(trainer, pl_module, self.initializer) as initializer:
            plan = make_plan(
                pl_module,
                initializer,
                rules=self.rules,
                nonlinearity=self.nonlinearity,
                bias=self.bias,
                frozen=self.frozen,
                seed=seed,
                strict=self.strict,
                fans=self.fans,
            )
        plan = _only(fresh, plan)
        _warn_of_trained_weights(pl_module, plan)
        if self.calibration is not None:
            self._uncalibrated = plan
            self._undo = [a.place.snapshot() for a in plan.assignments if a.initializer is not None]
        self.report = apply_(plan)
        self._fresh = True
        if self.calibration is None:
            self._done(pl_module)
        rank_zero_info(f"InitCallback: {self.report.summary}.")
        weights = [a.name for a in plan.unclaimed if a.place.parameter.ndim > 1]
        if weights:
            rank_zero_warn(
                f"InitCallback left {', '.join(weights[:5])}{', ...' if len(weights) > 5 else ''} as constructed: the "
                "owner's class is unknown. Name them in rules (None keeps them), or see lightning_init.fans.register"
            )

    def _calibrate(self, trainer: Trainer, pl_module: LightningModule) -> None:
        plan, undo = self._uncalibrated, self._undo
        self._uncalibrated, self._undo = None, []
        if plan is None or self.calibration is None:
            return
        if trainer.ckpt_path is None:
            try:
                self.report = calibrated(trainer, pl_module, plan, self.calibration)
            except BaseException:
                for restore in undo:
                    restore()
                raise
        else:
            rank_zero_info("InitCallback: a checkpoint was restored, so nothing is calibrated.")
        restored = vars(pl_module).get(_SETTINGS) if trainer.ckpt_path is not None else None
        self._done(pl_module, restored)

    def _done(self, pl_module: LightningModule, settings: dict[str, object] | None = None) -> None:
        _marks.mark(pl_module)
        vars(pl_module).update({_REPORT: self.report, _SETTINGS: settings or self.settings()})

    def _leave(self, pl_module: LightningModule) -> None:
        """Say that everything was initialized before; warn if that is not plain from the LightningModule's own past."""
        self.report = vars(pl_module).get(_REPORT)
        if self.report is None and not _marks.is_worker() and any(True for _ in pl_module.parameters()):
            rank_zero_warn(
                f"InitCallback leaves this {type(pl_module).__name__} as it is: the fit of another LightningModule has "
                "initialized all its layers, or a checkpoint was loaded into them. Build new layers, or call "
                "lightning_init.initialize, to start over."
            )
        else:
            rank_zero_info("InitCallback: the model was initialized before and is left as it is.")

    def __getstate__(self) -> dict[str, object]:
        """Leave out what belongs to a running fit; the ledger travels, by its handle where that is possible."""
        return {**self.__dict__, "_unwrap": None, "_waits": False, "_early": {}, "_uncalibrated": None, "_undo": []}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Keep the ledger of the process that spawned this one; a mere copy of it (pickle, deepcopy) is of no use."""
        vars(self).update(state)
        if not self._ledger.is_shared():  # type: ignore[no-untyped-call]
            self._ledger = _marks.ledger()


def _warn_of_trained_weights(pl_module: LightningModule, plan: Plan) -> None:
    """Warn where a layer is about to be initialized beside a batch normalization that has seen batches."""
    around = {a.place.module_name.rpartition(".")[0] for a in plan.assignments if a.initializer is not None}
    for path, module in pl_module.named_modules():
        seen, name = getattr(module, "num_batches_tracked", None), clean(path, pl_module)
        if isinstance(seen, Tensor) and not seen.is_meta and int(seen) and name.rpartition(".")[0] in around:
            rank_zero_warn(
                f"InitCallback writes over weights that look trained: {name} beside them has seen {int(seen)} batches."
                ' Keep trained weights with rules={"<their names>.*": None}, or resume with fit(..., ckpt_path=...)'
            )
            return


def _only(fresh: set[str], plan: Plan) -> Plan:
    """Return `plan` without what an earlier fit has initialized."""
    return replace(
        plan,
        assignments=tuple(
            assignment
            if assignment.name in fresh
            else replace(assignment, initializer=None, layout=None, why="kept: an earlier fit initialized it")
            for assignment in plan.assignments
        ),
    )
