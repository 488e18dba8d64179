"""Final validation accuracy against depth, one line per initializer: how deep a network each of them can start."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from examples import statistics
from examples.comparison import Comparison
from examples.plots import style
from examples.settings import Setting

KEY = "model.depth"


def figure(comparison: Comparison) -> Figure | None:
    """Return one line per initializer (and per further override that varies); None if the depth was not varied.

    What has no depth, or one that is no number, is left out.
    """
    if KEY not in comparison.keys:
        return None
    depth = comparison.keys.index(KEY)
    settings = [setting for setting in comparison.settings if isinstance(setting.key[depth], int)]
    if not settings:
        return None
    lines: dict[tuple[object, ...], list[Setting]] = defaultdict(list)
    for setting in settings:
        lines[setting.key[:depth] + setting.key[depth + 1 :]].append(setting)
    looks = style.looks(comparison)
    picture, (axis,) = style.grid(1, columns=1, width=8.0, height=4.5)
    for group in lines.values():
        group = sorted(group, key=lambda setting: setting.key[depth])
        intervals = np.array([statistics.interval(setting.metric("val_accuracy")) for setting in group]).T
        depths = [setting.key[depth] for setting in group]
        look = looks[group[0].line]
        axis.fill_between(depths, intervals[1], intervals[2], color=look.color, alpha=0.18, linewidth=0)
        style.line(axis, depths, intervals[0], look, _label(group[0]))
    axis.set(xlabel="depth (layers)", ylabel="final validation accuracy", ylim=(0, 1.02))
    axis.set_xticks(sorted({setting.key[depth] for setting in settings}))
    axis.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    style.title(picture, comparison, "Accuracy by depth", style.seeds(comparison, "mean and 95 % interval"))
    style.legend(picture, [axis])
    return picture


def _label(setting: Setting) -> str:
    """Return the label of the line: everything that varies but the depth."""
    rest = [part for part in setting.panel.split(", ") if part and not part.startswith("depth=")]
    parts = [part for part in setting.line.split(", ") if not part.startswith("depth=")]
    return ", ".join([*parts, *rest]) or "all"
