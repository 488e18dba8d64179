"""Pictures of what was logged: a heat map (layer x step) and a profile over depth, for one series of all layers.

Colours: viridis (Smith & van der Walt, 2015), whose lightness grows evenly, so that the colour-blind and prints in grey
tell its colours apart. No pyplot: figures are objects, nothing is global.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from lightning_init._suggest import closest

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

History: TypeAlias = Mapping[str, Mapping[int, float]]

_COLUMNS = 1500  # steps that a heat map shows at most: a screen has no more
_NAMES = 40  # layers that are named at most
_LINES = 6  # steps that a profile shows
_FRACTIONS = ("sparsity", "fraction", "saturation")
_MARKERS = "os^DvP"
_MISSING = "#c8c8c8"
_DECADES = 12  # that colours tell apart: more, and one explosion would make all else one colour


def heat_map(history: History, series: str) -> Figure:
    """Return a figure of `series`: a row for each layer in depth order, a column for each step, value as colour.

    Args:
        history: tag -> step -> value, from `read_history` or `SignalMonitor.history`.
        series: what stands before the slash of the tags: `activation_variance`, `gradient_norm`, ...

    Raises:
        ValueError: if nothing of that name was logged.
        ImportError: without matplotlib.

    >>> figure = heat_map({"gradient_norm/0": {0: 1.0, 1: 0.1}, "gradient_norm/1": {0: 2.0, 1: 0.5}}, "gradient_norm")
    >>> figure.axes[0].get_title()
    'gradient norm of each layer at each step'
    """
    figure = _figure()
    from matplotlib import colormaps
    from matplotlib.colors import LogNorm, Normalize

    layers, steps, values = _grid(history, series)
    log = _is_logarithmic(series, values)
    shown = np.ma.masked_where(~np.isfinite(values) | ((values <= 0) if log else False), values)
    if len(steps) > _COLUMNS:
        chosen = np.linspace(0, len(steps) - 1, _COLUMNS).astype(int)
        steps, shown = steps[chosen], shown[:, chosen]
    axes = figure.add_subplot()
    axes.set_facecolor(_MISSING)
    mesh = axes.pcolormesh(
        _edges(steps),
        np.arange(len(layers) + 1) - 0.5,
        shown,
        norm=LogNorm(*colour_limits(values)) if log else Normalize(),
        cmap=colormaps["viridis"],
    )
    axes.invert_yaxis()
    every = -(-len(layers) // _NAMES)
    axes.set_yticks(range(0, len(layers), every), layers[::every], fontsize=7)
    axes.set_ylabel("layer, in depth order")
    axes.set_xlabel("step")
    axes.set_title(f"{_spoken(series)} of each layer at each step")
    label = f"{_spoken(series)}{' (log scale)' if log else ''}"
    if shown.mask.any():
        label += f"; grey: {'zero, ' if log else ''}not finite or not measured"
    figure.colorbar(mesh, ax=axes, label=label, extend="both" if log else "neither")
    return figure


def colour_limits(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Return the ends of a logarithmic colour scale: of all that is positive, but no more than 12 decades.

    These lie around the median, so that a layer that explodes does not darken all others.

    >>> colour_limits(np.array([0.01, 1.0, 2.0, 1e30]))
    (0.01, 1500000.0)
    """
    shown = values[np.isfinite(values) & (values > 0)]
    if not shown.size:
        return 0.1, 1.0
    middle, reach = float(np.median(shown)), 10.0 ** (_DECADES / 2)
    low, high = max(float(shown.min()), middle / reach), min(float(shown.max()), middle * reach)
    return low, high if high > low else 10 * low


def depth_profile(history: History, series: str, expected: Mapping[str, float] | None = None) -> Figure:
    """Return a figure of `series` over depth: a line for each of up to six steps, the first and the last among them.

    Args:
        history: tag -> step -> value.
        series: as of `heat_map`.
        expected: tag -> what was planned or predicted for step 0; a dashed line, where there is any for this series.

    Raises:
        ValueError: if nothing of that name was logged.
        ImportError: without matplotlib.
    """
    figure = _figure()
    from matplotlib import colormaps

    layers, steps, values = _grid(history, series)
    axes = figure.add_subplot()
    chosen = _spread(len(steps))
    places = np.linspace(0, 0.85, len(chosen))  # the end of viridis is too pale
    for place, column, marker in zip(places, chosen, _MARKERS, strict=False):
        look = {"color": colormaps["viridis"](place), "marker": marker, "markersize": 4}
        axes.plot(values[:, column], **look, label=f"step {steps[column]}")
    points = [(i, (expected or {}).get(f"{series}/{layer}")) for i, layer in enumerate(layers)]
    known = [(i, value) for i, value in points if value is not None]
    if known:
        axes.plot(*zip(*known, strict=True), "--x", color="#d62728", markersize=5, label="expected at step 0")
    _depth_axis(axes, layers)
    log = _is_logarithmic(series, values)
    if log:
        axes.set_yscale("log", nonpositive="mask")
    axes.set_ylabel(f"{_spoken(series)}{' (log scale)' if log else ''}")
    axes.set_title(f"{_spoken(series)} over depth")
    axes.grid(visible=True, alpha=0.3)
    axes.legend(frameon=False)
    return figure


def series_of(history: History) -> list[str]:
    """Return the names of the series that have a value for each of several layers.

    >>> series_of({"gradient_norm/0": {}, "gradient_norm/1": {}, "gradient_norm_total": {}, "loss": {}})
    ['gradient_norm']
    """
    heads = [tag.partition("/")[0] for tag in history if "/" in tag]
    return [head for head in dict.fromkeys(heads) if heads.count(head) > 1]


def every_picture(
    history: History, expected: Mapping[str, float] | None = None
) -> Iterator[tuple[str, npt.NDArray[np.uint8]]]:
    """Yield names and images `(height, width, 3)`: a heat map and a depth profile of each series; arguments as of that.

    Raises:
        ImportError: without matplotlib.
    """
    for series in series_of(history):
        yield f"heat_map/{series}", pixels(heat_map(history, series))
        yield f"depth_profile/{series}", pixels(depth_profile(history, series, expected))


def pixels(figure: Figure) -> npt.NDArray[np.uint8]:
    """Return a figure as an image `(height, width, 3)`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    return np.asarray(canvas.buffer_rgba())[..., :3]  # type: ignore[no-untyped-call]


def require_matplotlib() -> None:
    """Raise ImportError, with the remedy, where there is no matplotlib."""
    _figure()


def _figure() -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("pictures are drawn with matplotlib: pip install matplotlib") from error
    return Figure(figsize=(9.0, 5.5), dpi=120, layout="constrained")


def _grid(history: History, series: str) -> tuple[list[str], npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return the layers, the steps, and the values `(layers, steps)`; nan where there is none."""
    rows = {tag.partition("/")[2]: points for tag, points in history.items() if tag.startswith(f"{series}/")}
    if not rows:
        names = list(dict.fromkeys(tag.partition("/")[0] for tag in history if "/" in tag))
        near = ", ".join(repr(one) for one in closest(series, names)) or "none: nothing was logged"
        raise ValueError(f"series: {series!r} was not logged; the closest are {near}")
    steps = sorted({step for points in rows.values() for step in points})
    values = [[points.get(step, math.nan) for step in steps] for points in rows.values()]
    return list(rows), np.array(steps), np.array(values, np.float64)


def _is_logarithmic(series: str, values: npt.NDArray[np.float64]) -> bool:
    """Return whether differences of scale are what matters: not in fractions, nor where there are negative values."""
    if series.endswith(_FRACTIONS):
        return False
    finite = values[np.isfinite(values)]
    return bool(finite.size and finite.min() >= 0 and finite.max() > 0)


def _edges(steps: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return the borders between columns: halfway between steps, however far these are apart."""
    middle = (steps[1:] + steps[:-1]) / 2
    first, last = (middle[0], middle[-1]) if len(steps) > 1 else (steps[0] + 0.5, steps[0] - 0.5)
    return np.concatenate([[2 * steps[0] - first], middle, [2 * steps[-1] - last]])


def _spread(number: int) -> list[int]:
    """Return up to six of so many columns: the first, the last, and between them ever wider apart.

    >>> _spread(3), _spread(1000)
    ([0, 1, 2], [0, 3, 15, 62, 250, 999])
    """
    if number <= _LINES:
        return list(range(number))
    return sorted({round(number ** (i / (_LINES - 1)) - 1) for i in range(_LINES)})


def _depth_axis(axes: Axes, layers: Sequence[str]) -> None:
    every = -(-len(layers) // _NAMES)
    axes.set_xticks(range(0, len(layers), every), list(layers[::every]), rotation=90, fontsize=7)
    axes.set_xlabel("layer, in depth order")


def _spoken(series: str) -> str:
    return series.replace("_", " ")
