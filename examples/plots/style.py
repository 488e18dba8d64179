"""What the pictures share: colours that the colour-blind can tell apart, markers for print, panels and legends.

Colours: Okabe and Ito (2008), "Color Universal Design". No pyplot: figures are objects, nothing is global.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from examples.comparison import Comparison
from examples.settings import Setting

T = TypeVar("T")
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6BB1")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", "--", ":", "-.")
GREY = "#666666"
DPI = 150
SUPERSCRIPTS = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")


@dataclass(frozen=True)
class Look:
    """How one line is drawn."""

    color: str
    marker: str
    linestyle: str


def power(value: float, _: int | None = None) -> str:
    """Return a tick label of a logarithmic axis, as plain text: typesetting $10^{-3}$ takes much longer.

    >>> power(0.001), power(25)
    ('10⁻³', '2.5·10¹')
    """
    digits, exponent = f"{value:.3e}".split("e")
    digits = digits.rstrip("0").rstrip(".")
    return ("" if digits == "1" else f"{digits}·") + "10" + str(int(exponent)).translate(SUPERSCRIPTS)


def looks(comparison: Comparison) -> dict[str, Look]:
    """Return a look for each line label; the same in all pictures of a comparison."""
    labels = sorted({setting.line for setting in comparison.settings})
    cycle = ((c, d) for d in DASHES for c in range(len(COLOURS)))
    return {
        label: Look(COLOURS[c], MARKERS[c], dash)
        for label, (c, dash) in zip(labels, itertools.cycle(cycle), strict=False)
    }


def panels(comparison: Comparison, most: int) -> dict[str, list[Setting]]:
    """Return the settings of each panel, best first; at most so many panels, evenly spaced where there are more."""
    groups: dict[str, list[Setting]] = {}
    for setting in reversed(comparison.settings):
        groups.setdefault(setting.panel, []).append(setting)
    names = sorted(groups, key=_natural)
    return {panel: groups[panel] for panel in spaced(names, most)}


def spaced(items: Sequence[T], most: int) -> list[T]:
    """Return at most so many of `items`, evenly spaced, the first and the last among them.

    >>> spaced("abcdefg", 3)
    ['a', 'd', 'g']
    """
    return [items[round(place)] for place in np.linspace(0, len(items) - 1, min(len(items), most))]


def grid(count: int, *, columns: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """Return a figure of `count` axes with light grids, `width` x `height` inches each."""
    columns = min(columns, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(width * columns, height * rows), dpi=DPI, layout="constrained")
    axes = [figure.add_subplot(rows, columns, i + 1) for i in range(count)]
    for axis in axes:
        axis.grid(visible=True, color="#E5E5E5", linewidth=0.8)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def band(axis: Axes, x: Sequence[float], rows: np.ndarray, look: Look, label: str, *, log: bool = False) -> None:
    """Draw the mean over `rows` (seeds, len(x)) as a line and the range from the lowest to the highest as a band."""
    with np.errstate(divide="ignore", invalid="ignore"):
        middle = np.exp(np.mean(np.log(rows), axis=0)) if log else rows.mean(axis=0)
    axis.fill_between(x, rows.min(axis=0), rows.max(axis=0), color=look.color, alpha=0.18, linewidth=0)
    line(axis, x, middle, look, label)


def line(axis: Axes, x: Sequence[float], y: Sequence[float], look: Look, label: str) -> None:
    """Draw one line in its look; markers only where they do not run into each other."""
    size = 5 if len(x) <= 25 else 0
    axis.plot(x, y, color=look.color, linestyle=look.linestyle, marker=look.marker, markersize=size, label=label)


def point(axis: Axes, row: float, middle: float, low: float, high: float, look: Look) -> None:
    """Draw a fraction with its interval in a row, and write it at the right edge."""
    axis.plot([low, high], [row, row], color=look.color, linewidth=2.5, solid_capstyle="butt")
    axis.plot([middle], [row], marker=look.marker, color=look.color, markersize=9, markeredgecolor="white")
    edge = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
    axis.annotate(f"{middle:.1%}", (1.0, row), (6, 0), va="center", **edge)


def legend(figure: Figure, axes: Sequence[Axes]) -> None:
    """Put one legend for all axes beside them."""
    entries = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    if len(entries) > 1:
        figure.legend(entries.values(), entries.keys(), loc="outside right center", frameon=False)


def title(figure: Figure, comparison: Comparison, text: str, detail: str) -> None:
    """Set the title: what is shown, for which model and data, and what lines and bands are."""
    subject = f", {comparison.subject}" if comparison.subject else ""
    figure.suptitle(f"{text}{subject}\n{detail}", fontsize="medium")


def seeds(comparison: Comparison, what: str) -> str:
    """Return how many seeds stand behind the picture, and `what` is drawn where they are several."""
    counts = sorted({len(setting.runs) for setting in comparison.settings})
    return "one seed" if counts == [1] else f"{what} of {' or '.join(map(str, counts))} seeds"


def _natural(text: str) -> list[tuple[float, str]]:
    """Sort key under which width=9 comes before width=10."""
    parts = re.split(r"(\d+(?:\.\d+)?)", text)
    return [(float(part), "") if part[:1].isdigit() else (-1.0, part) for part in parts]
