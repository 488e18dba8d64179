"""Extra TensorBoard runs that hold what the seeds of each setting have in common, drawn as margin charts."""

from __future__ import annotations

import collections
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar.metadata import CONFIG_SUMMARY_TAG, PLUGIN_NAME
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from examples import statistics
from examples.comparison import Comparison
from examples.settings import Setting

FOLDER = "aggregate"
METRICS = {"val_accuracy": "validation accuracy", "val_loss": "validation loss", "train_loss": "training loss"}
PARTS = ("mean", "lower", "upper")


def write(comparison: Comparison, directory: Path) -> Path:
    """Write one run per setting below `directory/aggregate`, in place of older ones; return that folder.

    Each holds, for every metric, `<metric>/mean` over seeds after each epoch, and `lower` and `upper` of its 95 %
    bootstrap interval (the mean again where there is none), and the layout: a margin chart for each metric.
    """
    folder = directory / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    for name, setting in zip(_names(comparison.settings), comparison.settings, strict=True):
        points = {metric: found for metric in METRICS if (found := _points(setting, metric))}
        if points:
            _write_run(folder / name, points)
    return folder


def _write_run(run: Path, points: Mapping[str, Mapping[int, Sequence[float]]]) -> None:
    """Write the layout, and one event per step with all that is known there."""
    steps: dict[int, list[Summary.Value]] = collections.defaultdict(list)
    for metric, bands in points.items():
        for step, band in bands.items():
            tags = (f"{metric}/{part}" for part in PARTS)
            steps[step] += [Summary.Value(tag=t, simple_value=v) for t, v in zip(tags, band, strict=True)]
    writer = EventFileWriter(str(run))  # not torch's SummaryWriter: torch takes seconds to import, and 500 MiB
    writer.add_event(Event(wall_time=time.time(), summary=_layout(list(points))))
    for step, values in sorted(steps.items()):
        writer.add_event(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))
    writer.close()


def _points(setting: Setting, metric: str) -> dict[int, Sequence[float]]:
    """Return the optimizer steps after each epoch -> mean, low and high there, if all runs have a number."""
    curves = setting.curves(metric)
    if curves is None:
        return {}
    steps = max((run.result.history.get("step", []) for run in setting.runs), key=len)
    if len(steps) != curves.shape[1]:
        steps = list(range(1, curves.shape[1] + 1))
    finite = np.isfinite(curves).all(axis=0)
    bands = statistics.intervals(curves.T[finite])
    bands = np.where(np.isnan(bands), bands[:, :1], bands)
    return dict(zip(np.array(steps, int)[finite].tolist(), bands.tolist(), strict=True))


def _names(settings: Sequence[Setting]) -> list[str]:
    """Return a folder name for each setting: its label, as far as file systems take it."""
    names: list[str] = []
    for setting in settings:
        name = re.sub(r'[/\\:*?"<>|]', "-", setting.label)[:150]
        names.append(name if name not in names else f"{name} ({len(names)})")
    return names


def _layout(metrics: Sequence[str]) -> Summary:
    """Return what configures the custom-scalars tab (TensorBoard's own function for it wants TensorFlow)."""
    charts = []
    for metric in metrics:
        mean, lower, upper = (f"{metric}/{part}" for part in PARTS)
        series = layout_pb2.MarginChartContent.Series(value=mean, lower=lower, upper=upper)
        charts.append(layout_pb2.Chart(title=METRICS[metric], margin=layout_pb2.MarginChartContent(series=[series])))
    category = layout_pb2.Category(title="mean and 95 % interval over seeds", chart=charts)
    tensor = TensorProto(dtype="DT_STRING", string_val=[layout_pb2.Layout(category=[category]).SerializeToString()])
    metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name=PLUGIN_NAME))
    return Summary(value=[Summary.Value(tag=CONFIG_SUMMARY_TAG, tensor=tensor, metadata=metadata)])
