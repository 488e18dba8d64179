"""What a sweep has set out to do, noted in its directory, where all of its processes read it."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from examples import files
from examples.result import FILE as RESULT

FILE = "sweep.json"
OVERRIDES = ".hydra/overrides.yaml"
"""What Hydra leaves in the directory of every run before it begins."""


@dataclass(frozen=True)
class Plan:
    """The runs of one command: `total`, which take one value per key out of `grid`; any value, where that is None.

    >>> plan = Plan({"seed": ["0", "1"], "model": ["mlp"]}, total=2)
    >>> str(plan), plan.has(["seed=1", "model=mlp"]), plan.has(["seed=2", "model=mlp"]), plan.swept
    ('seed=0,1 model=mlp', True, False, ['seed'])
    """

    grid: Mapping[str, Sequence[str] | None]
    total: int

    def __str__(self) -> str:
        return " ".join(f"{key}={'...' if values is None else ','.join(values)}" for key, values in self.grid.items())

    @property
    def swept(self) -> list[str]:
        """The keys that differ between its runs."""
        return [key for key, values in self.grid.items() if values is None or len(values) > 1]

    def has(self, overrides: Iterable[str]) -> bool:
        """Return whether a run of these overrides is one of its runs."""
        return self.includes(Plan({key: [value] for key, _, value in (o.partition("=") for o in overrides)}, 1))

    def includes(self, other: Plan) -> bool:
        """Return whether all runs of `other` are among its own."""
        return self.grid.keys() == other.grid.keys() and all(
            mine is None or (theirs is not None and set(theirs) <= set(mine))
            for mine, theirs in ((self.grid[key], other.grid[key]) for key in self.grid)
        )


def plan(grid: Mapping[str, Sequence[str] | None], trials: int | None = None) -> Plan:
    """Return the plan of a sweep over `grid`: all of it, or so many trials, if it has so many runs."""
    every = math.inf if None in grid.values() else math.prod(len(values or ()) for values in grid.values())
    return Plan(grid, int(every if trials is None else min(trials, every)))


def note(sweep: Path, new: Plan) -> list[Plan]:
    """Note that `new` begins in the directory of a sweep; return the other plans that runs there were made for."""
    with files.alone(sweep):
        known = plans(sweep)
        besides = [old for old in known if not new.includes(old)]
        part = any(old.includes(new) for old in besides)
        foreign = sum(not new.has(overrides(file.parent) or []) for file in _results(sweep)) if besides else 0
        state = {"plans": [asdict(one) for one in (known if part else [*besides, new])]}
        state |= {"total": new.total, "foreign": foreign, "already": len(_results(sweep)) - foreign}
        files.remove_parts(sweep)
        files.write(sweep / FILE, json.dumps(state | {"started": time.time()}))
    return [old for old in besides if not old.includes(new)]


def end(sweep: Path, search: Plan) -> None:
    """Note that a search has ended. It may have tried the same more than once: nothing is missing of its trials."""
    tried = sum(search.has(overrides(file.parent) or []) for file in _results(sweep))
    note(sweep, replace(search, total=tried))


def plans(sweep: Path) -> list[Plan]:
    """Return the plans of all sweeps that were started into a directory; none if that was on a machine out of sight."""
    return [Plan(**one) for one in _state(sweep).get("plans", [])]


def swept(sweep: Path, overrides: Sequence[str]) -> list[str]:
    """Return the keys that differ between the runs of the sweep that a run of these overrides is of."""
    return next((plan.swept for plan in reversed(plans(sweep)) if plan.has(overrides)), [])


def overrides(directory: Path) -> list[str] | None:
    """Return the overrides of the run in `directory`, whether it is finished or not; None if there is none."""
    found = _read(directory / RESULT, lambda text: json.loads(text)["overrides"])
    return _read(directory / OVERRIDES, yaml.safe_load) if found is None else found


class Progress(NamedTuple):
    """How many runs of the sweep that was started last are finished, of how many; the seconds left; None: unknown."""

    finished: int
    total: int | None
    left: float | None


def progress(sweep: Path) -> Progress:
    """Return how far a sweep has come."""
    state, finished = _state(sweep), len(_results(sweep))
    if not state:
        return Progress(finished, None, None)
    finished -= state["foreign"]
    fresh = max(finished - state["already"], 1)
    left = (time.time() - state["started"]) / fresh * max(state["total"] - finished, 0)
    return Progress(finished, state["total"], left)


def _state(sweep: Path) -> dict[str, Any]:
    """Return what was noted; nothing if there is no note, or a file of that name that is none of ours."""
    try:
        state = json.loads((sweep / FILE).read_text())
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) and {"plans", "total", "foreign"} <= state.keys() else {}


def _results(sweep: Path) -> list[Path]:
    return list(sweep.glob(f"*/{RESULT}"))


def _read(file: Path, parse: Callable[[str], Any]) -> list[str] | None:
    try:
        return [str(override) for override in parse(file.read_text())]
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError):
        return None
