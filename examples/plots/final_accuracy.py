"""Final validation accuracy of each setting: every seed, the mean, and the 95 % interval."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from examples import statistics
from examples.comparison import Comparison
from examples.plots import style

MOST_ROWS = 60


def figure(comparison: Comparison) -> Figure | None:
    """Return one row per setting, best on top; None if there is no accuracy at all."""
    every = [s for s in comparison.settings if not np.all(np.isnan(s.metric("val_accuracy")))]
    settings = every[-MOST_ROWS:]
    if not settings:
        return None
    looks = style.looks(comparison)
    picture, (axis,) = style.grid(1, columns=1, width=8.0, height=1.6 + 0.36 * len(settings))
    for row, setting in enumerate(settings):
        look = looks[setting.line]
        values = np.array(setting.metric("val_accuracy"))
        axis.plot(values, [row] * len(values), linestyle="", marker="o", color=look.color, alpha=0.35, markersize=5)
        style.point(axis, row, *statistics.interval(values), look)
    axis.set_yticks(range(len(settings)), [setting.label for setting in settings])
    axis.set_xlabel("validation accuracy after the last epoch")
    axis.xaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    axis.set_xlim(0, 1.02)
    axis.set_ylim(-0.7, len(settings) - 0.3)
    detail = style.seeds(comparison, "mean, 95 % interval and single values")
    detail += style.part(len(settings), len(every), "settings, the best")
    style.title(picture, comparison, "Final accuracy", detail)
    return picture
