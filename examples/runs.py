"""The finished runs below some directories, and the table with one row per run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from examples import plans
from examples.errors import UsageError
from examples.result import FILE, Result

FIXED = ("initializer", "model", "data")


@dataclass(frozen=True)
class Run:
    """A result and where it lies; `name` is unique among the runs that are compared."""

    name: str
    directory: Path
    result: Result


@dataclass(frozen=True)
class Found:
    """The runs below the given directories, and one sentence for everything that was left out."""

    runs: list[Run]
    notes: list[str]


def find(directories: Iterable[Path]) -> Found:
    """Return every finished run below `directories`, sorted by name.

    Raises:
        UsageError: a directory does not exist, or there is no finished run at all.
    """
    roots = [Path(d) for d in directories]
    for root in roots:
        if not root.is_dir():
            raise UsageError(f"there is no directory {root}: give the output directory of a run or of a sweep")
    runs: dict[Path, Run] = {}
    notes: list[str] = []
    for root in roots:
        for file in sorted(root.rglob(FILE)):
            name = str(file.parent.relative_to(root)) if file.parent != root else root.resolve().name
            name = name if len(roots) == 1 or file.parent == root else f"{root.resolve().name}/{name}"
            try:
                result = Result.read(file.parent)
            except ValueError as error:
                notes.append(f"Kept out: {error}")
                continue
            if damaged := result.damaged(file.parent):
                notes.append(f"Kept out: {file.parent}: {', '.join(damaged)} is not as the run left it")
            else:
                runs[file.parent.resolve()] = Run(name, file.parent, result)
        begun = unfinished(root)
        notes += [f"Not finished, so not counted: {path}" for path in begun]
        notes += _planned(root)
    if not runs:
        where = ", ".join(map(str, roots))
        raise UsageError(
            f"no finished run below {where}: a run leaves a {FILE} there when it ends; "
            "make some with python -m examples.train" + "".join(f". {note}" for note in notes)
        )
    once, repeats = _once(sorted(runs.values(), key=lambda run: run.name))
    return Found(_unique(once), notes + repeats)


def unfinished(root: Path) -> list[Path]:
    """Return the directories that Hydra made for runs which left no result."""
    return sorted(p.parent.parent for p in root.rglob(plans.OVERRIDES) if not (p.parent.parent / FILE).exists())


def _planned(root: Path) -> list[str]:
    """Return what is to be said of each directory below `root` that sweeps were started into."""
    notes = []
    for sweep in sorted(file.parent for file in root.rglob(plans.FILE)):
        runs = [found for path in sweep.iterdir() if (found := plans.overrides(path)) is not None]
        known = plans.plans(sweep)
        begun = [sum(plan.has(overrides) for overrides in runs) for plan in known]
        if len(known) > 1:
            each = (f"{plan} ({count} runs)" for plan, count in zip(known, begun, strict=True))
            notes.append(f"Runs of {len(known)} sweeps are in {sweep}: {'; '.join(each)}")
        for plan, count in zip(known, begun, strict=True):
            if count < plan.total:
                what = f"the sweep {sweep}" if len(known) == 1 else f"the sweep {plan} in {sweep}"
                notes.append(f"Not begun: {plan.total - count} of the runs of {what}")
    return notes


def differing(runs: Sequence[Run]) -> list[str]:
    """Return the override keys, beyond initializer, model, data and seed, whose values differ between runs."""
    keys = {override.lstrip("+").partition("=")[0] for run in runs for override in run.result.overrides}
    keys -= {*FIXED, "seed"}
    return sorted(k for k in keys if len({str(value(run, k)) for run in runs}) > 1)


def value(run: Run, key: str) -> object:
    """Return what `key` was in `run`: the option of a config group, or a value of the config; as text, if it has parts.

    >>> settings = {"init.rules.head*": "zeros", "model.width": [8, 4]}
    >>> result = Result("ok", "ones", 0, choices={"model": "mlp"}, overrides=[], config=settings)
    >>> keys = ("initializer", "model", "model.width", "init.rules", "init.bias")
    >>> [value(Run("a", Path(), result), key) for key in keys]
    ['ones', 'mlp', '[8, 4]', '{"head*": "zeros"}', None]
    """
    if key == "initializer":
        return run.result.initializer
    config = run.result.config
    parts = {name.removeprefix(f"{key}."): config[name] for name in config if name.startswith(f"{key}.")}
    found = run.result.choices.get(key, config.get(key, parts or None))
    return json.dumps(found) if isinstance(found, list | dict) else found


def table(runs: Sequence[Run]) -> pd.DataFrame:
    """Return one row per run: what it was, how it ended, what it reached. Accuracies are fractions."""
    extra = differing(runs)
    rows = []
    for run in runs:
        result = run.result
        accuracies = result.history.get("val_accuracy") or [None]
        row = {
            "run": run.name,
            **{key: value(run, key) for key in FIXED},
            "seed": result.seed,
            "status": result.status,
            "val_accuracy": accuracies[-1],
            "best_val_accuracy": max(accuracies, key=lambda a: -1.0 if a is None else a),
            "train_loss": result.last("train_loss"),
            "seconds": result.seconds,
        }
        rows.append(row | {key: value(run, key) for key in extra})
    return pd.DataFrame(rows)


def _once(runs: list[Run]) -> tuple[list[Run], list[str]]:
    """Return `runs` without those that repeat another, and a sentence about these.

    The same configuration gives the same numbers again: counted as further seeds they would narrow every interval.
    One that did not fail stands for the others.
    """
    kept: dict[tuple[object, ...], Run] = {}
    for run in sorted(runs, key=lambda run: run.result.status == "failed"):
        result = run.result
        kept.setdefault((result.fingerprint, result.initializer, *sorted(result.choices.items())), run)
    places = {run.directory for run in kept.values()}
    repeats = [run.name for run in runs if run.directory not in places]
    once = [run for run in runs if run.directory in places]
    return once, [f"Not counted, as they repeat others here: {names(repeats)}"] if repeats else []


def names(items: Sequence[str], most: int = 3) -> str:
    """Return so many of `items` for a sentence, and how many more there are.

    >>> names(["a", "b", "c", "d", "e"])
    'a; b; c; and 2 more'
    """
    rest = [f"and {len(items) - most} more"] if len(items) > most else []
    return "; ".join([*items[:most], *rest])


def _unique(runs: list[Run]) -> list[Run]:
    """Fall back to whole paths where two given directories have runs of the same name."""
    names = [run.name for run in runs]
    return [run if names.count(run.name) == 1 else Run(str(run.directory), run.directory, run.result) for run in runs]
