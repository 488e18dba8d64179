"""The interquartile mean of each initializer over everything else that was swept."""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from examples.comparison import Comparison
from examples.plots import style

MOST_ROWS = 60


def figure(comparison: Comparison) -> Figure | None:
    """Return one row per initializer, best on top; None unless something else was swept too."""
    table = comparison.overall
    if table.empty or table["val_accuracy_iqm"].isna().all():
        return None
    table = table.dropna(subset="val_accuracy_iqm")[:MOST_ROWS].iloc[::-1]
    looks = style.looks(comparison)
    picture, (axis,) = style.grid(1, columns=1, width=8.0, height=1.6 + 0.36 * len(table))
    for row, one in enumerate(table.itertuples()):
        bounds = one.val_accuracy_iqm_low, one.val_accuracy_iqm_high
        style.point(axis, row, one.val_accuracy_iqm, *bounds, looks[one.line])
    axis.set_yticks(range(len(table)), table["line"])
    axis.set_xlabel("interquartile mean of the final validation accuracy")
    axis.xaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    axis.set_xlim(0, 1.02)
    axis.set_ylim(-0.7, len(table) - 0.3)
    strata = f"over {table['settings'].max()} settings each, 95 % stratified bootstrap interval"
    style.title(picture, comparison, "Overall accuracy", strata)
    return picture
