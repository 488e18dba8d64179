"""What Hydra composes to see whether it can is kept, and not composed again by the processes that run the jobs.

Its sweeper composes the config of every job before the first begins, which takes no time where the processes still
import; its launchers do it again for each job.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.types import HydraContext
from omegaconf import DictConfig


class Keeper:
    """Hydra's loader of configs, which also keeps those of the jobs; in another process it is the mere loader."""

    def __init__(self, loader: ConfigLoader) -> None:
        self.loader = loader
        self.kept: dict[tuple[str, ...], bytes] = {}

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        """Return the config of the job with these overrides."""
        config = self.loader.load_sweep_config(master_config, sweep_overrides)
        self.kept[tuple(sweep_overrides)] = pickle.dumps(config)
        return config

    def __getattr__(self, name: str) -> object:
        return getattr(self.loader, name)

    def __reduce__(self) -> tuple[Any, ...]:
        return _itself, (self.loader,)


@dataclass(frozen=True)
class Composed:
    """In place of Hydra's loader of configs for one job, whose config is composed."""

    config: bytes

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        """Return the config of that job."""
        del master_config, sweep_overrides
        return pickle.loads(self.config)  # noqa: S301 (what the process that started this one has written)


class _PluginsThere:
    """Becomes, in another process, the plugins that Hydra has found there; else it would look for them in each job."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Plugins.instance, ()


def keep() -> None:
    """Have the configs kept that the sweeper will compose."""
    hydra = GlobalHydra.instance().hydra
    hydra.config_loader = Keeper(hydra.config_loader)


def lighten(
    number: int,
    overrides: Sequence[str],
    context: HydraContext,
    config: DictConfig,
    function: object,
    state: dict[str, Any],
) -> tuple[Any, ...]:
    """Return these arguments of `execute_job` such that it neither composes, if that is done, nor looks for plugins."""
    kept = getattr(context.config_loader, "kept", {}).get(tuple(overrides))
    if kept is not None:
        context = HydraContext(Composed(kept), context.callbacks)
    state = {**state, "instances": {**state["instances"], Plugins: _PluginsThere()}}
    return number, overrides, context, config, function, state


def _itself(loader: object) -> object:
    return loader
