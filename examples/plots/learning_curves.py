"""Validation accuracy against epochs, one line per initializer."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from examples.comparison import Comparison
from examples.plots import style
from examples.settings import Setting

METRIC = "val_accuracy"
MOST_PANELS = 6


def figure(comparison: Comparison) -> Figure | None:
    """Return the learning curves; None if no run got through an epoch."""
    panels = style.panels(comparison, MOST_PANELS)
    if not any(setting.curves(METRIC) is not None for group in panels.values() for setting in group):
        return None
    looks = style.looks(comparison)
    single = len(panels) == 1
    picture, axes = style.grid(len(panels), columns=3, width=8.0 if single else 4.4, height=4.5 if single else 3.4)
    for axis, (panel, settings) in zip(axes, panels.items(), strict=True):
        for setting in settings:
            _draw(axis, setting, looks[setting.line])
        axis.set_title(panel, y=1)
        axis.set(xlabel="epoch", ylabel="validation accuracy")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axis.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
        axis.set_ylim(0, 1.02)
    every = len({setting.panel for setting in comparison.settings})
    detail = style.seeds(comparison, "mean and range") + style.part(len(panels), every, "panels")
    style.title(picture, comparison, "Learning curves", detail)
    style.legend(picture, axes)
    return picture


def _draw(axis: Axes, setting: Setting, look: style.Look) -> None:
    curves = setting.curves(METRIC)
    if curves is not None:
        style.band(axis, range(1, curves.shape[1] + 1), curves, look, setting.line)
