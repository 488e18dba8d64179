"""Layer against step, the signal as a colour: where and when it vanishes, explodes or dies."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from examples import events
from examples.comparison import Comparison
from examples.plots import style
from examples.plots.depth_profile import SIGNALS
from examples.runs import Run

MOST_SETTINGS = 8
MOST_STEPS = 200
DECADES = 12
ZERO, HATCH = "#F2F2F2", "#B0B0B0"


def figure(comparison: Comparison) -> Figure | None:
    """Return a row of two heat maps for each setting, of its first run; None if no run has event files."""
    monitored = [s for s in reversed(comparison.settings) if s.runs[0].result.profile.get("first")]
    shown = style.spaced(monitored, MOST_SETTINGS)
    grids = {setting.label: found for setting in shown if (found := _grids(setting.runs[0])) is not None}
    if not grids:
        return None
    picture, axes = style.grid(2 * len(grids), columns=2, width=5.0, height=2.6)
    equal_steps = len({(found["steps"][0], found["steps"][-1]) for found in grids.values()}) == 1
    for column, (signal, label) in enumerate(SIGNALS.items()):
        norm = _norm([found[signal] for found in grids.values()])
        for row, (setting, found) in enumerate(grids.items()):
            axis = axes[2 * row + column]
            mesh = _draw(axis, found["steps"], found[signal], norm)
            axis.set_title(setting, y=1, fontsize="medium")
            if row == len(grids) - 1 or not equal_steps:
                axis.set_xlabel("step")
            else:
                axis.tick_params(labelbottom=False)  # the steps are those of the lowest map
            if column == 0:
                axis.set_ylabel("weight layer")
            else:
                axis.tick_params(labelleft=False)  # the layers are those of the map to the left
        where = {"ax": axes[column - 2], "location": "bottom", "shrink": 0.8}
        bar = picture.colorbar(mesh, **where, label=label, extend="both")
        if norm.vmax >= 100 * norm.vmin:  # below that it may be the minor ticks that have labels
            bar.minorticks_off()
            bar.ax.xaxis.set_major_formatter(style.power)
    seeds = sorted({setting.runs[0].result.seed for setting in shown})
    detail = f"seed {', '.join(map(str, seeds))}; hatched: exactly 0 or not finite"
    detail += style.part(len(grids), len(monitored), "settings, best to worst")
    style.title(picture, comparison, "Signals by layer and step", detail)
    return picture


def _grids(run: Run) -> dict[str, np.ndarray] | None:
    """Return `steps` (S) and for each signal an array (layers, S) from the event files of `run`."""
    series = events.read(run.directory, run.result.events)
    logged = [series[tag].steps for tag in series if tag.startswith("activation_variance/")]
    if not logged:
        return None
    steps = np.unique(np.concatenate(logged))
    steps = steps[np.unique(np.linspace(0, steps.size - 1, MOST_STEPS).round().astype(int))]
    grids = {"steps": steps}
    for signal in SIGNALS:
        grids[signal] = np.array([_at(series.get(f"{signal}/{layer}"), steps) for layer in run.result.layers])
    return grids


def _at(series: events.Series | None, steps: np.ndarray) -> np.ndarray:
    """Return the values at `steps`; NaN where none was logged."""
    values = np.full(steps.size, np.nan)
    if series is not None:
        _, ours, theirs = np.intersect1d(steps, series.steps, return_indices=True)
        values[ours] = series.values[theirs]
    return values


def _norm(grids: list[np.ndarray]) -> LogNorm:
    """Return the colours, as in `lightning_init.signals.pictures`, whose import would bring torch along."""
    values = np.concatenate([grid.ravel() for grid in grids])
    values = values[np.isfinite(values) & (values > 0)]
    if values.size == 0:
        return LogNorm(0.1, 1)
    middle, reach = np.median(values), 10.0 ** (DECADES / 2)  # one setting that explodes must not darken all others
    low, high = max(values.min(), middle / reach), min(values.max(), middle * reach)
    return LogNorm(low, high if high > low else 10 * low)


def _draw(axis: Axes, steps: np.ndarray, grid: np.ndarray, norm: LogNorm) -> object:
    shown = np.ma.masked_where(~np.isfinite(grid) | (grid <= 0), grid)
    layers = np.arange(1, grid.shape[0] + 1)
    axis.patch.set(facecolor=ZERO, edgecolor=HATCH, hatch="//")  # the colours have a grey, and in print all are grey
    axis.grid(visible=False)
    for one in (axis.xaxis, axis.yaxis):
        one.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    x = steps if steps.size > 1 else steps[0] + np.array([-0.25, 0.25])  # two halves of one step
    shown = shown if steps.size > 1 else np.ma.concatenate([shown, shown], axis=1)
    return axis.pcolormesh(x, layers, shown, norm=norm, cmap="cividis", shading="nearest", rasterized=True)
