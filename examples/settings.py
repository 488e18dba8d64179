"""Settings: the runs that differ in nothing but the seed, and how tables and pictures call them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from examples import runs as runs_
from examples import statistics
from examples.runs import FIXED, Run


@dataclass(frozen=True)
class Setting:
    """All runs that differ in nothing but the seed.

    `label` names it among all; in plots it is the line `line` (the initializer and its options, where these vary) in
    the panel `panel` (everything else that varies).
    """

    key: tuple[object, ...]
    label: str
    line: str
    panel: str
    runs: list[Run]

    def metric(self, name: str) -> list[float]:
        """Return the final value of `name` of every run; NaN where there is none."""
        return [float("nan") if (v := run.result.last(name)) is None else v for run in self.runs]

    def count(self, status: str) -> int:
        """Return how many runs ended with `status`."""
        return sum(run.result.status == status for run in self.runs)

    @property
    def dead(self) -> int:
        """How many runs learned nothing."""
        return sum(run.result.dead for run in self.runs)

    @property
    def alerts(self) -> dict[str, str]:
        """What the monitor warned of in any run: kind -> the first warning of that kind; the earliest first."""
        found: dict[str, str] = {}
        for kind, alert in (item for run in self.runs for item in run.result.alerts.items()):
            found.setdefault(kind, alert)
        return found

    def profile(self, when: str, signal: str) -> np.ndarray | None:
        """Return the depth profiles (runs, layers) that were recorded; None if there are none.

        Those of networks with other layers than the first of them, of which a remark tells, are left out.
        """
        rows = [p for run in self.runs if (p := run.result.profile.get(when, {}).get(signal))]
        return np.array([row for row in rows if len(row) == len(rows[0])], dtype=float) if rows else None

    def curves(self, name: str) -> np.ndarray | None:
        """Return `name` after each epoch (runs, epochs), None if there is none; what stopped early keeps its last."""
        rows = [row for run in self.runs if (row := run.result.history.get(name))]
        if not rows:
            return None
        longest = max(map(len, rows))
        return np.array([row + row[-1:] * (longest - len(row)) for row in rows])

    def steps_to(self, accuracy: float) -> list[float]:
        """Return after how many steps each run had reached `accuracy` at the end of an epoch; inf if it never had."""
        return [run.result.steps_to(accuracy) for run in self.runs if run.result.history.get("val_accuracy")]


def group(runs: Sequence[Run], keys: Sequence[str]) -> list[Setting]:
    """Return the settings of `runs`, which differ in `keys` and in the seed; worst first."""
    groups: dict[tuple[object, ...], list[Run]] = {}
    for run in runs:
        groups.setdefault(tuple(runs_.value(run, key) for key in keys), []).append(run)
    varied = [i for i in range(len(keys)) if len({str(group[i]) for group in groups}) > 1] or [0]
    lines = [i for i in varied if keys[i].partition(".")[0] == "initializer"]
    panels = [i for i in varied if i not in lines]
    if not lines:
        lines, panels = panels, []
    settings = [
        Setting(
            key,
            _label(key, keys, varied),
            _label(key, keys, lines),
            _label(key, keys, panels),
            sorted(group, key=lambda run: (str(run.result.seed).zfill(10), run.name)),
        )
        for key, group in groups.items()
    ]
    return sorted(settings, key=lambda s: (_rank(statistics.mean(s.metric("val_accuracy"))), s.label))


def by_line(settings: Sequence[Setting]) -> dict[str, list[Setting]]:
    """Return the settings of each line, sorted by panel."""
    lines: dict[str, list[Setting]] = {}
    for setting in sorted(settings, key=lambda s: s.panel):
        lines.setdefault(setting.line, []).append(setting)
    return lines


def text(value: object) -> str:
    """Return a value of a key for people: numbers with four digits.

    >>> text(2.285491314923834), text("relu")
    ('2.285', 'relu')
    """
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _label(key: Sequence[object], keys: Sequence[str], varied: Sequence[int]) -> str:
    parts = [text(key[i]) if keys[i] in FIXED else f"{keys[i].rpartition('.')[2]}={text(key[i])}" for i in varied]
    return ", ".join(parts)


def _rank(mean: float) -> float:
    return -1.0 if np.isnan(mean) else mean
