"""What was logged, read back from the event files: nothing is kept in memory for it."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from tensorboard.backend.event_processing.event_file_loader import EventFileLoader  # type: ignore[import-untyped]

from lightning_init.signals.catalogue import Signal, statistics_of
from lightning_init.signals.gradients import TOTAL

if TYPE_CHECKING:
    from pandas import DataFrame  # type: ignore[import-untyped]

_NAMES = {signal: "|".join(statistics_of(signal)) for signal in get_args(Signal)}
_SERIES = "|".join(f"{signal}_(?:{names})/.+" for signal, names in _NAMES.items())
_OURS = re.compile(f"^(?:[^/]*-)?({_SERIES}|{TOTAL}|step_skipped)$")  # a logger may put a prefix and a dash before it


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
            found = _OURS.search(value.tag)
            if found and value.HasField("tensor") and len(value.tensor.float_val) == 1:
                yield found[1], event.step, value.tensor.float_val[0]
