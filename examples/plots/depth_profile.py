"""The network layer by layer, untouched or at the end: activation variance forward, gradient norm backward."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from examples.comparison import Comparison
from examples.plots import style
from examples.settings import Setting

SIGNALS = {
    "activation_variance": "variance of the layer's output",
    "gradient_norm": "gradient norm of the layer (L2)",
}
MOST_PANELS = 4
MOST_NAMES = 8

WHEN = {"first": "before training", "last": "at the last step"}


def figure(comparison: Comparison, when: str = "first") -> Figure | None:
    """Return a row of two axes per panel, at the `first` or the `last` step; None if no run was monitored."""
    panels = {
        panel: group
        for panel, settings in style.panels(comparison, MOST_PANELS).items()
        if (group := [s for s in settings if s.profile(when, "activation_variance") is not None])
    }
    if not panels:
        return None
    looks = style.looks(comparison)
    picture, axes = style.grid(2 * len(panels), columns=2, width=5.0, height=4.2)
    for row, (panel, settings) in enumerate(panels.items()):
        for axis, (signal, label) in zip(axes[2 * row : 2 * row + 2], SIGNALS.items(), strict=True):
            _draw(axis, settings, signal, when, looks)
            axis.set_title(panel, y=1)
            axis.set_ylabel(label)
            _name_layers(axis, [setting.runs[0].result.layers for setting in settings])
    every = len({s.panel for s in comparison.settings if s.profile(when, "activation_variance") is not None})
    detail = style.seeds(comparison, "geometric mean and range") + style.part(len(panels), every, "rows of panels")
    style.title(picture, comparison, f"Signals by depth {WHEN[when]}", detail)
    style.legend(picture, axes)
    return picture


def _draw(axis: Axes, settings: list[Setting], signal: str, when: str, looks: dict[str, style.Look]) -> None:
    profiles = {setting.line: rows for setting in settings if (rows := setting.profile(when, signal)) is not None}
    positive = np.concatenate([rows[np.isfinite(rows) & (rows > 0)] for rows in profiles.values()])
    axis.set_yscale("log")
    axis.yaxis.set_major_formatter(style.power)
    axis.minorticks_off()
    if positive.size == 0:
        axis.text(0.5, 0.5, "exactly 0 everywhere", transform=axis.transAxes, ha="center", color=style.GREY)
        return
    floor = 10.0 ** (np.floor(np.log10(positive.min())) - 1)
    for line, rows in profiles.items():
        shown = np.where(rows == 0, floor, rows)
        style.band(axis, range(1, rows.shape[1] + 1), shown, looks[line], line, log=True)
    if any((rows == 0).any() for rows in profiles.values()):
        axis.axhline(floor, color=style.GREY, linewidth=0.8, linestyle=":")
        where = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
        axis.annotate("exactly 0", (0.5, floor), (0, 5), **where, ha="center", color=style.GREY, fontsize="small")


def _name_layers(axis: Axes, networks: list[list[str]]) -> None:
    """Name the layers, where they are few and those of all `networks`; else number them."""
    layers = networks[0]
    if len(layers) <= MOST_NAMES and all(others == layers for others in networks):
        names = [layer.rpartition(".")[2] for layer in layers]
        axis.set_xticks(range(1, len(layers) + 1), names, rotation=30 if len(layers) > 5 else 0)
        axis.set_xlabel("layer, input to output")
    else:
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.set_xlabel("weight layer, counted from the input")
