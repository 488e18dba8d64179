"""What was planned and what theory predicts for the first point, to stand beside what is measured there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress

from torch import nn

from lightning_init.report import Report
from lightning_init.signals.expectation import Expectation
from lightning_init.signals.layers import Layer, find_layers
from lightning_init.signals.meter import Meter, tell_inputs, watching

WEIGHT, ACTIVATION = "weight_variance", "activation_variance"
_HEADER = [
    *("layer", "weight variance: planned", "measured", "ratio"),
    *("activation variance: predicted", "measured", "ratio"),
]


class Forecast:
    """Follows what theory expects (`signals.expectation`) through a forward pass that happens anyway.

    Args:
        model: its forward is watched from `start` to `stop`; nothing in it is changed but for the hooks meanwhile.

    >>> import torch
    >>> model = nn.Sequential(nn.Linear(64, 512, bias=False), nn.ReLU(), nn.Linear(512, 1, bias=False))
    >>> for layer in (model[0], model[2]):
    ...     _ = nn.init.normal_(layer.weight, std=0.1, generator=torch.Generator().manual_seed(0))
    >>> forecast = Forecast(model)
    >>> forecast.start(torch.ones(8, 64))
    >>> _ = model(torch.ones(8, 64))
    >>> {name: round(variance, 1) for name, variance in forecast.stop().items()}  # 64 / 100, then 512 / 100 of its half
    {'0': 0.6, '2': 1.7}
    """

    def __init__(self, model: nn.Module) -> None:
        self._meters = [_Careful(layer, gradients=False) for layer in find_layers(model)]
        self._stack = ExitStack()

    def start(self, batch: object) -> None:
        """Watch from now on; tensors in `batch` count as Gaussian signals of their mean square."""
        expectation = Expectation()
        tell_inputs(expectation, batch)
        self._stack.enter_context(watching(self._meters, expectation))
        self._stack.enter_context(expectation)

    def stop(self) -> dict[str, float]:
        """Remove the hooks and return layer -> predicted variance of its outputs, where theory has one."""
        self._stack.close()
        return {meter.layer.name: meter.predicted for meter in self._meters if meter.predicted is not None}


class _Careful(Meter):
    """A meter in somebody's training, which no failure of theory may end."""

    def enter(self, expectation: Expectation, args: tuple[object, ...]) -> None:
        with suppress(Exception):
            super().enter(expectation, args)

    def leave(self, expectation: Expectation, output: object, order: int) -> None:
        with suppress(Exception):
            super().leave(expectation, output, order)


def planned(report: Report, layers: Sequence[Layer]) -> dict[str, float]:
    """Return tag -> the variance that the plan gives each weight of `layers`, where that has a closed form."""
    stds = {entry.name: entry.target_std for entry in report.entries}
    found = {}
    for layer in layers:
        for name, place in layer.weights.items():
            std = next((stds[one] for one in place.stored if stds.get(one) is not None), None)
            if std is not None:
                found[f"{WEIGHT}/{name}"] = std**2
    return found


def comparison(expected: Mapping[str, float], measured: Mapping[str, float]) -> str:
    """Return a Markdown table, one row for each layer of which something is expected.

    Args:
        expected: tag -> value planned or predicted.
        measured: tag -> value.

    >>> print(comparison({"weight_variance/a": 0.5, "activation_variance/a": 2.0}, {"weight_variance/a": 0.25}))
    | layer | weight variance: planned | measured | ratio | activation variance: predicted | measured | ratio |
    | --- | --- | --- | --- | --- | --- | --- |
    | a | 0.5 | 0.25 | 0.5 | 2 | - | - |
    """
    names = dict.fromkeys(tag.partition("/")[2] for tag in (*measured, *expected) if tag in expected)
    rows = [_HEADER, ["---"] * len(_HEADER)]
    for name in names:
        cells = [name]
        for series in (WEIGHT, ACTIVATION):
            ours, theirs = expected.get(f"{series}/{name}"), measured.get(f"{series}/{name}")
            ratio = theirs / ours if ours and theirs is not None else None
            cells += ["-" if one is None else f"{one:.4g}" for one in (ours, theirs, ratio)]
        rows.append(cells)
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
