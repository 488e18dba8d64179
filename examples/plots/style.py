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
from matplotlib.lines import Line2D

from examples.comparison import Comparison
from examples.settings import Setting

T = TypeVar("T")
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6BB1")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", "--", ":", "-.")
SLOT = 4
"""Length, in widths of the line, of the dash in which one of several lines that coincide is seen."""
ENTRY = 0.21
"""Height of a line of a legend, in inches."""
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
    names = sorted(groups, key=natural)
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


def part(shown: int, every: int, what: str) -> str:
    """Return how much of everything a picture shows, for its title; nothing if that is all.

    >>> part(6, 20, "panels"), part(2, 2, "panels")
    ('; 6 of 20 panels', '')
    """
    return f"; {shown} of {every} {what}" if shown < every else ""


def legend(figure: Figure, axes: Sequence[Axes]) -> None:
    """Put one legend for all axes beside them, and let lines that it tells apart show where they coincide."""
    entries = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    if len(entries) > 1:
        figure.set_figheight(max(figure.get_figheight(), ENTRY * (len(entries) + 3)))
        found = figure.legend(entries.values(), entries.keys(), loc="outside right center", frameon=False)
        turns = [take_turns(axis) for axis in axes]  # after the legend, which shows each line as it is alone
        if any(turns):
            found.set_title("lines that coincide\ntake turns", prop={"size": "small"})


def take_turns(axis: Axes) -> bool:
    """Draw lines of `axis` that lie upon each other as dashes, one after the other; return whether there were any."""
    axis.autoscale_view()  # else limits that follow the data would be those from before
    groups: list[list[Line2D]] = []
    for one in axis.get_legend_handles_labels()[0]:
        group = next((group for group in groups if _coincide(axis, group[0], one)), None)
        if group is None:
            groups.append([one])
        else:
            group.append(one)
    for group in (group for group in groups if len(group) > 1):
        for turn, one in enumerate(group):
            rest = len(group) - 1 - turn
            points = len(one.get_xdata())
            one.set_linestyle((SLOT * (rest + 1), (SLOT, SLOT * (len(group) - 1))))
            if points >= len(group):
                one.set_markevery((turn, len(group)))
            else:  # rings, the last of them full
                one.set(markersize=one.get_markersize() + 4 * rest, fillstyle="none" if rest else "full")
    return any(len(group) > 1 for group in groups)


def _coincide(axis: Axes, one: Line2D, other: Line2D) -> bool:
    """Return whether two lines are nowhere further apart than 1 % of the height of `axis`."""
    places = [axis.transData.transform(line.get_xydata()) for line in (one, other)]
    if places[0].shape != places[1].shape:
        return False
    height = axis.transAxes.transform((0, 1))[1] - axis.transAxes.transform((0, 0))[1]
    return bool(np.all(np.abs(places[0] - places[1]) <= 0.01 * height))


def title(figure: Figure, comparison: Comparison, text: str, detail: str) -> None:
    """Set the title: what is shown, for which model and data, and what lines and bands are."""
    subject = f", {comparison.subject}" if comparison.subject else ""
    figure.suptitle(f"{text}{subject}\n{detail}", fontsize="medium")


def seeds(comparison: Comparison, what: str) -> str:
    """Return how many seeds stand behind the picture, and `what` is drawn where they are several."""
    counts = sorted({len(setting.runs) for setting in comparison.settings})
    return "one seed" if counts == [1] else f"{what} of {' or '.join(map(str, counts))} seeds"


def natural(text: str) -> list[tuple[float, str]]:
    """Sort key under which width=9 comes before width=10."""
    parts = re.split(r"(\d+(?:\.\d+)?)", text)
    return [(float(part), "") if part[:1].isdigit() else (-1.0, part) for part in parts]
