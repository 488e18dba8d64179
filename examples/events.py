"""Scalars out of TensorBoard event files."""

from __future__ import annotations

import collections
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.util import tensor_util


class Series(NamedTuple):
    """One tag: `steps` ascending, `values` of the same length."""

    steps: np.ndarray
    values: np.ndarray


def read(directory: Path, names: Collection[str] = ()) -> dict[str, Series]:
    """Return the scalar series of the event files that lie directly in `directory`, by tag; of `names` alone if any."""
    points: dict[str, dict[int, float]] = collections.defaultdict(dict)
    for file in sorted(directory.glob("events.out.tfevents.*")):
        for event in _events(file) if not names or file.name in names else ():
            for value in event.summary.value:
                scalar = _scalar(value)
                if scalar is not None:
                    points[value.tag][event.step] = scalar
    return {tag: _series(by_step) for tag, by_step in points.items()}


def _events(file: Path) -> Iterator[Event]:
    for record in RawEventFileLoader(str(file)).Load():
        yield Event.FromString(record)


def _scalar(value: object) -> float | None:
    """Writers store scalars as `simple_value` or as a tensor of one element."""
    kind = value.WhichOneof("value")
    if kind == "simple_value":
        return value.simple_value
    if kind == "tensor" and value.metadata.plugin_data.plugin_name in ("", "scalars"):
        array = tensor_util.make_ndarray(value.tensor)
        return float(array.item()) if array.size == 1 and array.dtype.kind == "f" else None
    return None


def _series(by_step: dict[int, float]) -> Series:
    steps = np.array(sorted(by_step), dtype=np.int64)
    return Series(steps, np.array([by_step[step] for step in steps.tolist()]))
