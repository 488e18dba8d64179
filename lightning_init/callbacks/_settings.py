"""What a checkpoint says about the callback that initialized its model."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule

from lightning_init.initializers.base import Initializer
from lightning_init.rules import Rule

_KEY = LightningModule.CHECKPOINT_HYPER_PARAMS_KEY


def record(checkpoint: dict[str, Any], name: str, settings: dict[str, object], pl_module: LightningModule) -> None:
    """Put `settings` under `name` among the checkpoint's hyperparameters.

    `load_from_checkpoint` hands hyperparameters to the class, except those that its `__init__` does not know. Where it
    would hand these too, they stand beside: `checkpoint[name]`.
    """
    if _reaches_the_constructor(pl_module, checkpoint, name):
        checkpoint[name] = settings
    else:
        checkpoint[_KEY] = {**checkpoint.get(_KEY, {}), name: settings}


def recorded(checkpoint: Mapping[str, Any], name: str) -> dict[str, object] | None:
    """Return what `record` put into a checkpoint; None if it holds nothing of the kind."""
    hyperparameters = checkpoint.get(_KEY, {})
    found = checkpoint.get(name) or (hyperparameters.get(name) if isinstance(hyperparameters, dict) else None)
    return found if isinstance(found, dict) else None


def _reaches_the_constructor(pl_module: LightningModule, checkpoint: Mapping[str, object], name: str) -> bool:
    """Return whether `load_from_checkpoint` would hand an additional hyperparameter to the class."""
    parameters = inspect.signature(type(pl_module).__init__).parameters
    hyperparameters = checkpoint.get(_KEY, {})
    return (
        not isinstance(hyperparameters, dict)  # OmegaConf's containers may be closed
        or "_instantiator" in hyperparameters  # LightningCLI's: everything is an argument
        or name in {*parameters, *hyperparameters}
        or checkpoint.get(LightningModule.CHECKPOINT_HYPER_PARAMS_NAME) in parameters
        or any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    )


def plain(setting: object) -> object:
    """Return `setting` in types that `torch.load(weights_only=True)` reads."""
    if setting is None or isinstance(setting, (str, int, float)):
        return setting
    if isinstance(setting, Initializer):
        try:
            return setting.to_config()
        except TypeError:
            return repr(setting)
    return getattr(setting, "__qualname__", None) or repr(setting)


def plain_rule(rule: Rule) -> dict[str, object]:
    """Return what was given of `rule` in plain types."""
    more = {name: getattr(rule, name) for name in ("module", "where", "nonlinearity", "fans")}
    given = {name: plain(value) for name, value in more.items() if value is not None}
    return {"pattern": rule.pattern, "initializer": plain(rule.initializer), **given}
