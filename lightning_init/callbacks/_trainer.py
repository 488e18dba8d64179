"""What the callbacks need of a Trainer beyond its documented methods.

Classes of Lightning are told by their names here, so that Trainers of `pytorch_lightning` work as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.optim.swa_utils import AveragedModel

_SUPPORTED = ("SingleDeviceStrategy", "DDPStrategy", "FSDPStrategy", "ModelParallelStrategy")
_REFUSED = ("DeepSpeedStrategy",)  # its stage 3 partitions the parameters as they are built

PLANNED = "_lightning_init_planned"
"""Attribute of a LightningModule: the report of an initialization that no step of training has followed yet."""


def is_a(thing: object, name: str) -> bool:
    """Return whether a class of this name is among the bases of `thing`, whichever package it comes from.

    >>> is_a(True, "int")
    True
    """
    return any(base.__name__ == name for base in type(thing).__mro__)


def callbacks_of(trainer: Trainer) -> list[Callback]:
    """Return the live list of the Trainer's callbacks (set by a connector, and so unknown to type checkers)."""
    return cast("list[Callback]", trainer.callbacks)  # type: ignore[attr-defined]  # set by a connector


def write_text(trainer: Trainer, tag: str, markdown: str) -> None:
    """Write `markdown` to the text tab of every TensorBoard logger."""
    for logger in trainer.loggers:
        if is_a(logger, "TensorBoardLogger") and trainer.is_global_zero:
            logger.experiment.add_text(tag, markdown, 0)  # type: ignore[attr-defined]  # any Logger, to mypy


def refuse_strategy(trainer: Trainer, who: str, instead: str) -> None:
    """Raise NotImplementedError for strategies of which it is not known when and where they hold parameters.

    Args:
        trainer: whose strategy is asked about.
        who: does not support it.
        instead: what to do; goes on with "train with ...".
    """
    strategy = trainer.strategy
    if not any(is_a(strategy, name) for name in _SUPPORTED) or any(is_a(strategy, name) for name in _REFUSED):
        raise NotImplementedError(
            f"{who} does not support {type(strategy).__name__}, which may replace or partition the parameters and "
            f"their gradients. {instead} train with one of {', '.join(_SUPPORTED)}"
        )


@contextmanager
def whole_parameters(trainer: Trainer, *, lasting: bool = False) -> Iterator[None]:
    """Show the parameters that FSDP has flattened and sharded as they were.

    Args:
        trainer: whose strategy has wrapped the model.
        lasting: for looking only, and only where these parameters stay when they show slices again
            (use_orig_params=True, of which FSDP has no public record).
    """
    model = trainer.strategy.model or nn.Module()
    wrapped = [module for module in model.modules() if isinstance(module, FullyShardedDataParallel)]
    if not wrapped or (lasting and not all(module._use_orig_params for module in wrapped)):  # noqa: SLF001 (not public)
        yield
        return
    with FullyShardedDataParallel.summon_full_params(model, writeback=not lasting):
        yield


def after_next(pl_module: LightningModule, method: str, action: Callable[[], None]) -> Callable[[], None]:
    """Make `action` follow the next call of `method`; return what takes that back.

    Lightning has no hook between `configure_model` and the restoring of a checkpoint, but calls `configure_model`
    exactly there, if it is overridden; so it is overridden on the instance, for one call. It calls `setup` before, and
    only then may that be done: callbacks whose own `setup` comes later (WeightAveraging) look for an override, too.
    """
    before = vars(pl_module).get(method)
    original: Callable[..., None] = getattr(pl_module, method)

    def unwrap() -> None:
        vars(pl_module).pop(method, None)
        if before is not None:
            vars(pl_module)[method] = before

    def once(*args: object, **kwargs: object) -> None:
        unwrap()
        original(*args, **kwargs)
        action()

    vars(pl_module)[method] = once
    return unwrap


def renew_averages(trainer: Trainer, pl_module: LightningModule) -> None:
    """Copy the weights of the module to the averages that WeightAveraging and its like have made of it.

    They copy the module in their own `setup`, and WeightAveraging validates and saves that copy until it first takes an
    average. There is no public name for it.
    """
    weights = dict(pl_module.named_parameters())
    for callback in callbacks_of(trainer):
        average = getattr(callback, "_average_model", None)
        if isinstance(average, nn.Module):
            module = average.module if isinstance(average, AveragedModel) else average
            vars(module).pop("setup", None)  # our override of the original's, copied with it
            with torch.no_grad():
                for name, parameter in module.named_parameters():
                    if name in weights and weights[name].shape == parameter.shape:
                        parameter.copy_(weights[name])


def compiled(pl_module: LightningModule) -> bool:
    """Return whether a part of the model is compiled (torch keeps no public record): its graphs must see no mode."""
    whole = getattr(pl_module, "_compiler_ctx", None) is not None  # trainer.fit(torch.compile(module))
    return whole or any(
        "_orig_mod" in one._modules or getattr(one, "_compiled_call_impl", None) is not None  # noqa: SLF001 (not public)
        for one in pl_module.modules()
    )


def on_meta(model: nn.Module) -> bool:
    """Return whether parameters of `model` have no memory yet."""
    return any(parameter.is_meta for parameter in model.parameters())
