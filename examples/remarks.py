"""What a reader of a comparison must know: what is missing, what is mixed, what is not paired."""

from __future__ import annotations

import math
from collections.abc import Sequence

from examples import settings as settings_
from examples.runs import names
from examples.settings import Setting


def remarks(settings: Sequence[Setting], keys: Sequence[str]) -> list[str]:
    """Return one sentence for everything that must be known about `settings`, which differ in `keys`."""
    return [*_failures(settings), *_mixtures(settings, keys), *_gaps(settings), *_seeds(settings)]


def _failures(settings: Sequence[Setting]) -> list[str]:
    """Return why runs failed, one sentence for each reason."""
    by_error: dict[str, list[str]] = {}
    for run in (run for setting in settings for run in setting.runs if run.result.status == "failed"):
        by_error.setdefault(str(run.result.error), []).append(run.name)
    return [f"Failed ({names(sorted(runs))}): {' '.join(error.split())}" for error, runs in by_error.items()]


def _mixtures(settings: Sequence[Setting], keys: Sequence[str]) -> list[str]:
    found = []
    for key in ("experiment", "data"):
        values = sorted({str(s.key[keys.index(key)]) for s in settings}) if key in keys else []
        if len(values) > 1:
            what = "experiments" if key == "experiment" else "data sets"
            found.append(f"Runs of different {what} are here ({', '.join(values)}): compare within each, not across")
    for setting in settings:
        seeds = [run.result.seed for run in setting.runs]
        differing = _unexplained(setting)
        if differing:
            found.append(f"{setting.label}: its runs also differ in {', '.join(differing)}")
        if len(set(seeds)) < len(seeds):
            found.append(f"{setting.label}: some seeds were run more than once")
    return found


def _unexplained(setting: Setting) -> list[str]:
    """Return the config keys in which runs of one setting differ, other than those that follow the seed."""
    results = [run.result for run in setting.runs]
    first = results[0]
    differing = {k for r in results for k in (*r.config, *first.config) if r.config.get(k) != first.config.get(k)}
    return sorted(k for k in differing if any(r.config.get(k) != r.seed for r in results))


def _gaps(settings: Sequence[Setting]) -> list[str]:
    """Return what keeps rows from being compared: seeds that others of the panel have, panels that other lines have."""
    measured: dict[str, dict[str, set[int]]] = {}
    for setting in settings:
        pairs = zip(setting.runs, setting.metric("val_accuracy"), strict=True)
        seeds = {run.result.seed for run, accuracy in pairs if not math.isnan(accuracy)}
        measured.setdefault(setting.panel, {})[setting.label] = seeds
    found = []
    for rows in measured.values():
        every = set().union(*rows.values())
        for label, seeds in rows.items():
            if seeds and (missing := sorted(every - seeds)):
                found.append(f"{label}: no accuracy with seed {', '.join(map(str, missing))}, which others here have")
    reached = {panel for panel, rows in measured.items() if any(rows.values())}
    for line, members in settings_.by_line(settings).items():
        here = {setting.panel for setting in members if measured[setting.panel][setting.label]}
        if here and (missing := sorted(reached - here)):
            found.append(f"Over all settings {line} cannot be compared: it has no accuracy for {names(missing)}")
    return found


def _seeds(settings: Sequence[Setting]) -> list[str]:
    single = [setting.label for setting in settings if len(setting.runs) == 1]
    if len(single) == len(settings):
        return ["One seed only: no intervals. Add seeds, for example seed=0,1,2"]
    return [f"One seed only, so no interval: {names(single)}"] if single else []
