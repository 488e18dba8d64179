"""The command line, checked before anything is written: does every chosen option of a config group exist?"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import OverrideParseException
from omegaconf import OmegaConf

from examples.errors import UsageError, unknown
from examples.sizes import SIZES

CONF = Path(__file__).resolve().parents[1] / "conf"
PLUGINS = {
    ("hydra/launcher", "joblib"): "hydra_joblib_launcher",
    ("hydra/launcher", "submitit_local"): "hydra_submitit_launcher",
    ("hydra/launcher", "submitit_slurm"): "hydra_submitit_launcher",
    ("hydra/launcher", "ray"): "hydra_ray_launcher",
    ("hydra/sweeper", "optuna"): "hydra_optuna_sweeper",
}


def check(arguments: Iterable[str]) -> None:
    """Raise UsageError for an option that does not exist, naming the closest ones, or that is not installed."""
    given = list(arguments)
    for size in (argument.removeprefix("size=") for argument in given if argument.startswith("size=")):
        if size not in SIZES:
            raise unknown("size", size, SIZES)
    for group, option in _choices(given):
        known = _options(group)
        if known and option not in (*known, "null"):
            raise unknown(group, option, known)
        _need(group, option)
        if group == "experiment" and option != "null":
            for override in OmegaConf.load(CONF / group / f"{option}.yaml").get("defaults", []):
                for key, value in override.items():
                    _need(key.removeprefix("override /"), value)


def grid(overrides: Sequence[str]) -> dict[str, list[str] | None]:
    """Return the values that each key takes in a sweep, each once; None where they have no end, as Optuna takes them.

    A later override of a key replaces an earlier one.
    """
    found: dict[str, list[str] | None] = {}
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        key = override.get_key_element()
        if not override.is_sweep_override():
            found[key] = [override.get_value_element_as_str()]
        else:
            found[key] = list(dict.fromkeys(override.sweep_string_iterator())) if override.is_discrete_sweep() else None
    return found


def _options(group: str) -> list[str]:
    if group.startswith("hydra/"):
        return [*(option for known, option in PLUGINS if known == group), "basic"]
    folder = CONF / group
    return [str(path.relative_to(folder).with_suffix("")) for path in folder.rglob("*.yaml")]


def _need(group: str, option: str) -> None:
    plugin = PLUGINS.get((group, option))
    if plugin and not _installed(plugin):
        raise UsageError(f"{group}={option} needs a plugin of Hydra's: pip install {plugin.replace('_', '-')}")


def _installed(plugin: str) -> bool:
    return all(importlib.util.find_spec(name) is not None for name in ("hydra_plugins", f"hydra_plugins.{plugin}"))


def _choices(arguments: Iterable[str]) -> Iterator[tuple[str, str]]:
    parser = OverridesParser.create()
    for argument in arguments:
        if argument.startswith("-") or "=" not in argument:
            continue
        try:
            override = parser.parse_override(argument)
        except OverrideParseException:
            continue  # Hydra explains it better
        group = override.key_or_group
        if override.is_delete() or not ((CONF / group).is_dir() or group in ("hydra/launcher", "hydra/sweeper")):
            continue
        if override.is_sweep_override() and override.is_discrete_sweep():
            for option in override.sweep_string_iterator():
                yield group, option
        else:
            yield group, str(override.value())
