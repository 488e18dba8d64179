"""One training run: from a composed config to a `Result`."""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import lightning as pl
import torch
from hydra.utils import get_method, instantiate
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import Strategy
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher
from omegaconf import DictConfig, OmegaConf
from threadpoolctl import threadpool_limits

from examples import events, initializer
from examples.callbacks import History, Measure, StopWhenDiverged
from examples.classifier import Classifier
from examples.data import ImageData
from examples.errors import UsageError
from examples.profile import profiles, weight_layers
from examples.result import Result, checksums
from lightning_init import InitCallback, SignalMonitor


def start(config: DictConfig, choices: Mapping[str, str], overrides: Sequence[str]) -> Result:
    """Return the result of a run that has not begun: what it is, without what came out."""
    return Result(
        status="failed",
        initializer=initializer.label(config.initializer),
        seed=config.seed,
        choices=dict(choices),
        overrides=list(overrides),
        config=flatten(OmegaConf.to_container(config, resolve=True)),
    )


def execute(config: DictConfig, result: Result, directory: Path, *, in_sweep: bool, share: int | None = None) -> None:
    """Train as `config` says, write the event files into `directory`, and complete `result`.

    `share` is how many threads to use where `config` does not say it; torch's own choice if None.
    """
    _quiet()
    if threads := config.threads or share:
        torch.set_num_threads(threads)
        threadpool_limits(threads)  # and NumPy's BLAS: more threads than free cores wait for each other
    torch.set_float32_matmul_precision(config.matmul_precision)
    data: ImageData = instantiate(config.data, seed=_seed(config.seed))
    pl.seed_everything(config.seed, workers=True, verbose=False)  # after the data: these may come from a cache
    classifier = _classifier(config, data)
    monitor: SignalMonitor | None = instantiate(config.monitor) or None
    callback = InitCallback(
        initializer.build(config.initializer),
        seed=config.seed,
        monitor=monitor or False,
        **OmegaConf.to_container(config.init, resolve=True),
    )
    history = History()
    measure = [Measure(get_method(config.measure))] if config.measure else []
    logger = TensorBoardLogger(directory, name="", version="", default_hp_metric=False)
    trainer: pl.Trainer = instantiate(
        config.trainer,
        callbacks=[callback, *measure, history, StopWhenDiverged(), *([] if in_sweep else [RichProgressBar()])],
        logger=logger,
        default_root_dir=str(directory),
        enable_progress_bar=not in_sweep,
    )
    _refuse_processes(trainer.strategy, in_sweep=in_sweep)
    begin = time.perf_counter()
    trainer.fit(classifier, datamodule=data)
    result.seconds = time.perf_counter() - begin
    result.history = history.epochs
    result.measured = measure[0].found if measure else {}
    if monitor is not None:
        for alert in monitor.alerts:
            result.alerts.setdefault(alert.kind, str(alert))
    result.chance = data.chance
    result.status = "diverged" if history.diverged else "ok"
    if trainer.is_global_zero:
        _log_hyperparameters(logger, result)
        result.layers = weight_layers(classifier)
        result.profile = profiles(events.read(directory), result.layers)
        result.events = checksums(directory)


def flatten(tree: object, prefix: str = "") -> dict[str, object]:
    """Return the leaves of nested mappings under dotted keys.

    >>> flatten({"model": {"width": 8}, "seed": 0})
    {'model.width': 8, 'seed': 0}
    """
    if not isinstance(tree, Mapping) or not tree:
        return {prefix: tree}
    leaves: dict[str, object] = {}
    for key, value in tree.items():
        leaves |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
    return leaves


def _classifier(config: DictConfig, data: ImageData) -> Classifier:
    model = instantiate(config.model, input_shape=data.image_shape, num_classes=data.num_classes, _convert_="all")
    if config.channels_last:
        model = model.to(memory_format=torch.channels_last)
    if config.compile:
        model.compile()
    return Classifier(
        model,
        instantiate(config.optimizer),
        data.num_classes,
        validate_with_dropout=config.validate_with_dropout,
    )


def _refuse_processes(strategy: Strategy, *, in_sweep: bool) -> None:
    """Refuse what would record nothing, and DDP in a sweep: its other processes have the command line of the first.

    The tasks of a job of submitit's are told apart by Slurm, and are there before the run begins.
    """
    name, launcher = type(strategy).__name__, strategy.launcher
    if isinstance(launcher, _MultiProcessingLauncher):
        raise UsageError(
            f"{name} that spawns or forks its processes would leave no result: what they measure stays in them. "
            "Use trainer.strategy=ddp"
        )
    if not in_sweep or launcher is None or strategy.world_size == 1:
        return
    if not ("SUBMITIT_EXECUTOR" in os.environ and strategy.cluster_environment.creates_processes_externally):
        raise UsageError(
            f"{name} on {strategy.world_size} devices cannot run inside a sweep (-m): each of its processes would "
            "start the sweep again. Run job by job without -m, use one device per job, or "
            "hydra/launcher=submitit_slurm with hydra.launcher.tasks_per_node=N for trainer.devices=N"
        )


def _seed(seed: object) -> int:
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise UsageError(f"seed={seed} is impossible: it must be a whole number from 0 to 4294967295")
    return seed


def _log_hyperparameters(logger: TensorBoardLogger, result: Result) -> None:
    """Give TensorBoard's HParams tab the settings together with what came out (without these it shows -1)."""
    settings = {"initializer": result.initializer, "seed": result.seed}
    settings |= {group: result.choices[group] for group in ("model", "data", "optimizer") if group in result.choices}
    overridden = (override.lstrip("+").partition("=")[0] for override in result.overrides)
    settings |= {key: result.config[key] for key in overridden if key in result.config}
    metrics = {f"final/{name}": result.last(name) for name in ("val_accuracy", "train_loss")}
    metrics |= {"final/seconds": result.seconds, **{f"measured/{k}": v for k, v in result.measured.items()}}
    logger.log_hyperparams(settings, {name: value for name, value in metrics.items() if value is not None})
    logger.finalize("success")


def _quiet() -> None:
    """Keep what a user need not act on out of the way."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", ".*does not have many workers.*")  # the data lie in memory
    warnings.filterwarnings("ignore", "SignalMonitor: ")  # kept in the result, and shown with it
    warnings.filterwarnings("ignore", ".*`srun` command is available.*")  # a machine of a cluster, but no job of it
    warnings.filterwarnings("ignore", ".*LeafSpec.*")  # between Lightning and torch; nothing a user can do
