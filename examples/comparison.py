"""The comparison of runs that share everything but what was swept: one row per setting, seeds summarised."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from examples import remarks, statistics
from examples import runs as runs_
from examples import settings as settings_
from examples.errors import check_target, unknown
from examples.runs import FIXED
from examples.settings import Setting
from examples.statistics import Interval

SHARE = 0.95
"""Of the best mean accuracy: the accuracy that runs are timed to, unless another is asked for."""


@dataclass(frozen=True)
class Comparison:
    """Everything that tables, plots and pages are made from.

    Attributes:
        runs: one row per run.
        settings: worst first.
        keys: what tells settings apart.
        table: one row per setting, in their order.
        overall: one row per line over all its panels; empty if there is one panel.
        target: the accuracy that `steps_to_target` counts to.
        baseline: the initializer that all are measured against, if any.
        notes: what a reader must know.
    """

    runs: pd.DataFrame
    settings: list[Setting]
    keys: list[str]
    table: pd.DataFrame
    overall: pd.DataFrame
    target: float
    baseline: str | None
    notes: list[str]

    @property
    def subject(self) -> str:
        """What all settings have in common, for titles: "mlp on digits"; empty where both vary."""
        model, data = ({setting.key[self.keys.index(k)] for setting in self.settings} for k in ("model", "data"))
        return " on ".join(str(*found) for found in (model, data) if len(found) == 1)


def compare(directories: Iterable[Path], *, baseline: str | None = None, target: float | None = None) -> Comparison:
    """Return the comparison of all finished runs below `directories`.

    Args:
        directories: output of runs or of sweeps.
        baseline: an initializer among them; the tables then tell how probably each setting beats it.
        target: the accuracy (a fraction) to which steps are counted; 95 % of the best mean accuracy if None.

    Raises:
        UsageError: there is nothing to compare, or an argument is impossible.
    """
    check_target(target)
    found = runs_.find(directories)
    keys = [*FIXED, *runs_.differing(found.runs)]
    settings = settings_.group(found.runs, keys)
    if baseline is not None and baseline not in {setting.line for setting in settings}:
        raise unknown("baseline", baseline, {setting.line for setting in settings})
    target = _target(settings) if target is None else target
    rows = [_row(setting, keys, target) | _improvement([setting], settings, baseline) for setting in settings]
    notes = found.notes + remarks.remarks(settings, keys)
    overall = _overall(settings, baseline)
    return Comparison(runs_.table(found.runs), settings, keys, pd.DataFrame(rows), overall, target, baseline, notes)


def _target(settings: Sequence[Setting]) -> float:
    """Return 95 % of the best mean accuracy, rounded down to whole percents; NaN without any accuracy."""
    means = [m for s in settings if not math.isnan(m := statistics.mean(s.metric("val_accuracy")))]
    return math.floor(100 * SHARE * max(means)) / 100 if means else math.nan


def _row(setting: Setting, keys: Sequence[str], target: float) -> dict[str, object]:
    accuracy = setting.metric("val_accuracy")
    best = [max(run.result.history.get("val_accuracy") or [math.nan]) for run in setting.runs]
    steps = setting.steps_to(target)
    seconds = [math.nan if run.result.seconds is None else run.result.seconds for run in setting.runs]
    return {
        **dict(zip(keys, setting.key, strict=True)),
        "runs": len(setting.runs),
        "failed": setting.count("failed"),
        **_columns("val_accuracy", "mean", statistics.interval(accuracy)),
        **_columns("val_accuracy", "iqm", statistics.interquartile([accuracy])),
        "best_val_accuracy_mean": statistics.mean(best),
        "train_loss_mean": statistics.mean(setting.metric("train_loss")),
        "diverged": setting.count("diverged"),
        "dead": setting.dead,
        "target_accuracy": target,
        "reached_target": sum(map(math.isfinite, steps)),
        "steps_to_target": statistics.median(steps),
        "alerts": ", ".join(sorted(setting.alerts)),
        "activation_factor_per_layer": _factor(setting, "activation_variance"),
        "gradient_factor_per_layer": _factor(setting, "gradient_norm"),
        "seconds_mean": statistics.mean(seconds),
    }


def _overall(settings: Sequence[Setting], baseline: str | None) -> pd.DataFrame:
    """Return one row per line, best first: its accuracies over all panels, which are the strata of the intervals."""
    lines = settings_.by_line(settings)
    if len({setting.panel for setting in settings}) == 1 or len(lines) == len(settings):
        return pd.DataFrame()
    rows = []
    for line, members in lines.items():
        strata = [setting.metric("val_accuracy") for setting in members]
        rows.append(
            {
                "line": line,
                "settings": len(members),
                "runs": sum(len(setting.runs) for setting in members),
                **{status: sum(setting.count(status) for setting in members) for status in ("failed", "diverged")},
                "dead": sum(setting.dead for setting in members),
                **_columns("val_accuracy", "mean", statistics.stratified(strata, statistics.plain_mean)),
                **_columns("val_accuracy", "iqm", statistics.interquartile(strata)),
                **_improvement(members, settings, baseline),
            }
        )
    return pd.DataFrame(rows).sort_values("val_accuracy_iqm", ascending=False, kind="stable", ignore_index=True)


def _columns(name: str, kind: str, interval: Interval) -> dict[str, float]:
    """Return the columns of an interval; those of the mean are called low and high alone."""
    middle = "" if kind == "mean" else f"{kind}_"
    return {f"{name}_{kind}": interval.mean, f"{name}_{middle}low": interval.low, f"{name}_{middle}high": interval.high}


def _improvement(group: Sequence[Setting], settings: Sequence[Setting], baseline: str | None) -> dict[str, float]:
    """Return how probably `group` beats the settings of the same panels whose line is `baseline`, pair by pair."""
    if baseline is None:
        return {}
    rivals = {setting.panel: setting for setting in settings if setting.line == baseline}
    ours, theirs = [], []
    for setting in group:
        mine, other = (
            {run.result.seed: run.result.last("val_accuracy") for run in s.runs}
            for s in (setting, rivals.get(setting.panel, setting))
        )
        seeds = sorted(mine.keys() & other.keys()) if setting.panel in rivals else []
        ours.append([mine[seed] for seed in seeds])
        theirs.append([other[seed] for seed in seeds])
    found = statistics.improvement(ours, theirs)
    return {"improvement": found.mean, "improvement_low": found.low, "improvement_high": found.high}


def _factor(setting: Setting, signal: str) -> float:
    profiles = setting.profile("first", signal)
    if profiles is None:
        return math.nan
    return statistics.geometric_mean([statistics.factor_per_layer(profile) for profile in profiles])
