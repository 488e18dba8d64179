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
MOST_PANELS = 6


def figure(comparison: Comparison) -> Figure | None:
    """Return a panel for everything else that varies, in it one line per initializer; None if the depth did not vary.

    What has no depth, or one that is no number, is left out.
    """
    if KEY not in comparison.keys:
        return None
    depth = comparison.keys.index(KEY)
    settings = [setting for setting in comparison.settings if isinstance(setting.key[depth], int)]
    if not settings:
        return None
    panels: dict[str, dict[str, list[Setting]]] = defaultdict(lambda: defaultdict(list))
    for setting in sorted(settings, key=lambda setting: setting.key[depth]):
        panels[_without_depth(setting.panel)][_without_depth(setting.line) or "all"].append(setting)
    shown = style.spaced(sorted(panels, key=style.natural), MOST_PANELS)
    looks = style.looks(comparison)
    size = {"width": 8.0, "height": 4.5} if len(shown) == 1 else {"width": 4.4, "height": 3.4}
    picture, axes = style.grid(len(shown), columns=3, **size)
    for axis, panel in zip(axes, shown, strict=True):
        for line, group in panels[panel].items():
            intervals = np.array([statistics.interval(setting.metric("val_accuracy")) for setting in group]).T
            depths = [setting.key[depth] for setting in group]
            look = looks[group[0].line]
            axis.fill_between(depths, intervals[1], intervals[2], color=look.color, alpha=0.18, linewidth=0)
            style.line(axis, depths, intervals[0], look, line)
        axis.set_title(panel, y=1)
        axis.set(xlabel="depth (layers)", ylabel="final validation accuracy", ylim=(0, 1.02))
        axis.set_xticks(sorted({setting.key[depth] for setting in settings}))
        axis.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    detail = style.seeds(comparison, "mean and 95 % interval") + style.part(len(shown), len(panels), "panels")
    style.title(picture, comparison, "Accuracy by depth", detail)
    style.legend(picture, axes)
    return picture


def _without_depth(label: str) -> str:
    return ", ".join(part for part in label.split(", ") if not part.startswith("depth="))
