"""The comparison as text: a Markdown file and a table for the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd
from rich import box
from rich.table import Table

from examples.comparison import Comparison
from examples.settings import text

LEGEND = (
    "Accuracies are means over seeds with 95 % percentile-bootstrap intervals; IQM is the interquartile mean, over "
    "several settings with stratified intervals. Diverged runs count with the accuracy that they ended with; failed "
    "runs have none; dead runs never got clearly above guessing. Steps are the median over seeds. The factors per "
    "layer are the trend over the weight layers of the untouched initial network: x 1 means that the signal keeps its "
    "size."
)
SHORT = {
    "validation accuracy": "validation\naccuracy",
    "train loss": "train\nloss",
    "activation variance per layer": "activation\nvariance\nper layer",
    "gradient norm per layer": "gradient\nnorm\nper layer",
}
MOST_ROWS = 40
"""In a terminal; the files have them all."""
PAGE_ONLY = ("IQM", "IQM interval", "reached by", "seconds")
"""Columns for which a terminal has no room."""


def readable(comparison: Comparison) -> pd.DataFrame:
    """Return the comparison with formatted cells, best setting first; columns that say nothing are left out."""
    table = comparison.table.iloc[::-1]
    keys = [key for key in comparison.keys if table[key].astype(str).nunique() > 1] or comparison.keys[:1]
    cells = pd.DataFrame({key: table[key].map(text) for key in keys})
    _add_outcome(cells, table)
    _add_improvement(cells, table, comparison.baseline)
    if table["steps_to_target"].notna().any():
        steps = zip(table["reached_target"], table["runs"] - table["failed"], strict=True)
        cells[f"steps to {comparison.target:.0%}"] = [count(median) for median in table["steps_to_target"]]
        cells["reached by"] = [f"{reached} of {runs}" for reached, runs in steps]
    cells["train loss"] = [number(loss) for loss in table["train_loss_mean"]]
    if table["activation_factor_per_layer"].notna().any():
        cells["activation variance per layer"] = [factor(f) for f in table["activation_factor_per_layer"]]
        cells["gradient norm per layer"] = [factor(f) for f in table["gradient_factor_per_layer"]]
    cells["seconds"] = ["-" if math.isnan(seconds) else f"{seconds:.1f}" for seconds in table["seconds_mean"]]
    return cells


def overall(comparison: Comparison) -> pd.DataFrame:
    """Return what each initializer reached over all settings, best first, as formatted cells; maybe empty."""
    table = comparison.overall
    if table.empty:
        return table
    cells = pd.DataFrame({"initializer": table["line"], "settings": table["settings"].map(str)})
    _add_outcome(cells, table)
    _add_improvement(cells, table, comparison.baseline)
    return cells


def _add_outcome(cells: pd.DataFrame, table: pd.DataFrame) -> None:
    cells["runs"] = [number(runs) for runs in table["runs"]]
    for name in ("failed", "diverged", "dead"):
        if table[name].any():
            cells[name] = [number(count) for count in table[name]]
    cells["validation accuracy"] = [accuracy(mean) for mean in table["val_accuracy_mean"]]
    if table["val_accuracy_low"].notna().any():
        cells["95 % interval"] = _bounds(table["val_accuracy_low"], table["val_accuracy_high"])
        cells["IQM"] = [accuracy(mean) for mean in table["val_accuracy_iqm"]]
        cells["IQM interval"] = _bounds(table["val_accuracy_iqm_low"], table["val_accuracy_iqm_high"])


def _add_improvement(cells: pd.DataFrame, table: pd.DataFrame, baseline: str | None) -> None:
    if baseline is None:
        return
    shares = zip(table["improvement"], _bounds(table["improvement_low"], table["improvement_high"], 0), strict=True)
    cells[f"beats {baseline}"] = ["-" if math.isnan(p) else f"{p:.0%} ({bounds})" for p, bounds in shares]


def _bounds(lows: pd.Series, highs: pd.Series, digits: int = 1) -> list[str]:
    pairs = zip(lows, highs, strict=True)
    return ["-" if math.isnan(low) else f"{low:.{digits}%} to {high:.{digits}%}" for low, high in pairs]


def count(steps: float) -> str:
    """Return a median number of steps.

    >>> count(120.0), count(float("inf")), count(float("nan"))
    ('120', 'never', '-')
    """
    return "-" if math.isnan(steps) else "never" if math.isinf(steps) else f"{steps:g}"


def accuracy(mean: float) -> str:
    """Return a fraction in percent.

    >>> accuracy(0.9722)
    '97.2%'
    """
    return "-" if math.isnan(mean) else f"{mean:.1%}"


def factor(value: float) -> str:
    """Return what a signal is multiplied by from one layer to the next.

    >>> factor(0.5), factor(0.0), factor(float("nan"))
    ('x 0.5', 'exactly 0', '-')
    """
    return "-" if math.isnan(value) else "exactly 0" if value == 0 else f"x {value:.3g}"


def number(value: float) -> str:
    """Return three significant digits, whole numbers as they are.

    >>> number(3), number(0.123456), number(float("nan"))
    ('3', '0.123', '-')
    """
    if isinstance(value, float) and math.isnan(value):
        return "-"
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e6 else f"{value:.3g}"


def markdown(table: pd.DataFrame) -> str:
    """Return a GitHub-flavoured Markdown table."""
    rows = [[str(cell).replace("|", "\\|") for cell in row] for row in table.itertuples(index=False)]
    header = [str(column) for column in table.columns]
    widths = [max(3, *(len(row[i]) for row in [header, *rows])) for i in range(len(header))]
    lines = [_line(header, widths), "|" + "|".join("-" * (width + 2) for width in widths) + "|"]
    return "\n".join(lines + [_line(row, widths) for row in rows])


def page(comparison: Comparison, pictures: Sequence[str]) -> str:
    """Return `comparison.md`: the table, how to read it, what is missing, and the pictures."""
    parts = [
        "# Comparison",
        markdown(readable(comparison)),
        *(["## Over all settings", markdown(overall(comparison))] if len(comparison.overall) else []),
        LEGEND,
        *(f"- {note}" for note in [*comparison.notes, *warnings(comparison)]),
        *(f"![{picture}]({picture})" for picture in pictures),
    ]
    return "\n\n".join(parts) + "\n"


def warnings(comparison: Comparison) -> list[str]:
    """Return one sentence for each setting that the monitor warned of, worst setting first."""
    return [
        f"{setting.label}: {next(iter(setting.alerts.values()))}" for setting in comparison.settings if setting.alerts
    ]


def terminal(comparison: Comparison) -> Table:
    """Return the comparison for a rich console; it fits into 80 columns as long as little varies."""
    cells = readable(comparison)
    cells = cells.drop(columns=[column for column in PAGE_ONLY if column in cells])[:MOST_ROWS]
    rows = len(comparison.table)
    what = f"Comparison, the best {MOST_ROWS} of {rows}" if rows > MOST_ROWS else "Comparison, best first"
    title = f"{what}: {comparison.subject}".removesuffix(": ")
    table = Table(
        box=box.SIMPLE_HEAD,
        title=title,
        title_justify="left",
        title_style="bold",
        show_edge=False,
        padding=(0, 1, 0, 0),
    )
    for column in cells.columns:
        justify = "left" if column in comparison.keys else "right"
        table.add_column(SHORT.get(column, column), justify=justify, min_width=_width(cells[column]))
    for row in cells.itertuples(index=False):
        table.add_row(*row)
    return table


def _width(column: pd.Series) -> int:
    """Return the width under which neither a cell nor a word of the title breaks."""
    title = SHORT.get(str(column.name), str(column.name))
    return int(max(column.str.len().max(), *map(len, title.split()), 0))


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"
