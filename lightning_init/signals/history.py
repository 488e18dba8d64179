"""What was logged, read back from the event files: nothing is kept in memory for it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tensorboard.backend.event_processing.event_file_loader import EventFileLoader  # type: ignore[import-untyped]

if TYPE_CHECKING:
    from pandas import DataFrame  # type: ignore[import-untyped]

PREFIXES = ("weight_", "activation_", "gradient_", "update_", "step_skipped")


def read_history(directory: str | Path) -> dict[str, dict[int, float]]:
    """Return tag -> step -> value, for every series of the monitor in the event files of `directory`.

    Where a step was logged twice (a run that was resumed in the same directory), the later one counts.

    Raises:
        FileNotFoundError: if there is no event file.
    """
    files = sorted(Path(directory).glob("*.tfevents.*"))
    if not files:
        raise FileNotFoundError(f"there is no event file (*.tfevents.*) in {str(directory)!r}")
    series: dict[str, dict[int, float]] = defaultdict(dict)
    for file in files:
        for tag, step, value in _scalars(file):
            series[tag][step] = value
    return dict(series)


def as_table(series: dict[str, dict[int, float]]) -> DataFrame:
    """Return a table with a row for each step and a column for each tag (needs pandas)."""
    try:
        import pandas as pd
    except ImportError as error:
        raise ImportError("a table needs pandas: pip install pandas, or use read_history, which gives dicts") from error
    return pd.DataFrame(series).sort_index().rename_axis(index="step")


def _scalars(file: Path) -> Iterator[tuple[str, int, float]]:
    for event in EventFileLoader(str(file)).Load():
        for value in event.summary.value:
            tag = value.tag.rpartition("-")[2] if not value.tag.startswith(PREFIXES) else value.tag
            if tag.startswith(PREFIXES) and value.HasField("tensor") and len(value.tensor.float_val) == 1:
                yield tag, event.step, value.tensor.float_val[0]
