"""Where the microseconds of SignalMonitor go: its methods are wrapped here, and nowhere else, to take their time."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeVar
from unittest.mock import patch

import numpy as np
from lightning.pytorch import LightningModule, Trainer

from benchmarks.monitoring.ways import WithAlerts
from lightning_init.callbacks._sinks import Sinks
from lightning_init.callbacks.signal_monitor import SignalMonitor
from lightning_init.signals.alerts import Watch
from lightning_init.signals.gradients import GradientNorms
from lightning_init.signals.probe import Probe
from lightning_init.signals.reading import Reading
from lightning_init.signals.tap import Tap

_Result = TypeVar("_Result")

PARTS: dict[str, tuple[tuple[type, str], ...]] = {
    "taps": ((Tap, "__call__"),),
    "weights": ((Probe, "_weigh"),),
    "gradients": ((GradientNorms, "add"),),
    "closing": ((Probe, "close"),),
    "values": ((Reading, "values"),),
    "writing": ((Sinks, "write"),),
    "alerts": ((Watch, "check"),),
    "callbacks": (
        (SignalMonitor, "on_train_batch_start"),
        (SignalMonitor, "on_before_optimizer_step"),
        (SignalMonitor, "on_train_batch_end"),
    ),
}


class Clock:
    """Takes the time of calls, each without the calls inside it that are timed as well.

    Attributes:
        spent: part -> seconds.
    """

    def __init__(self) -> None:
        self.spent: defaultdict[str, float] = defaultdict(float)
        self._inner = 0.0  # seconds in the timed calls inside the one that is running

    def timed(self, part: str, function: Callable[..., _Result]) -> Callable[..., _Result]:
        def timed(*args: object, **options: object) -> _Result:
            outer, self._inner = self._inner, 0.0
            began = time.perf_counter()
            try:
                return function(*args, **options)
            finally:
                seconds = time.perf_counter() - began
                self.spent[part] += seconds - self._inner
                self._inner = outer + seconds

        return timed

    @contextmanager
    def running(self) -> Iterator[None]:
        """Time every part of SignalMonitor."""
        with ExitStack() as stack:
            for part, methods in PARTS.items():
                for owner, name in methods:
                    stack.enter_context(patch.object(owner, name, self.timed(part, getattr(owner, name))))
            yield


def timed_monitor(clock: Clock, steps: list[dict[str, float]]) -> type[WithAlerts]:
    """Return a way to monitor as SignalMonitor does by default, that adds the seconds in each part to `steps`."""

    class TimedMonitor(WithAlerts):
        def batch_start(self, trainer: Trainer, model: LightningModule) -> None:
            clock.spent.clear()
            super().batch_start(trainer, model)

        def batch_end(self, trainer: Trainer, model: LightningModule) -> None:
            super().batch_end(trainer, model)
            steps.append(dict(clock.spent))

    return TimedMonitor


def medians(steps: list[dict[str, float]]) -> dict[str, float]:
    """Return the median microseconds per step in each part, and of their sum."""
    parts = {part: [step.get(part, 0.0) for step in steps] for part in PARTS}
    parts["sum"] = [sum(step.values()) for step in steps]
    return {part: round(1e6 * float(np.median(seconds)), 1) for part, seconds in parts.items()}


def table(rows: list[dict[str, object]]) -> str:
    """Return a Markdown table: a line for each figure, a column for each workload.

    >>> print(table([{"workload": "W1", "taps": 2.5, "sum": 3.0}]))
    | microseconds per step | W1 |
    |---|---|
    | taps | 2.5 |
    | sum | 3.0 |
    """
    lines = [["microseconds per step", *(str(row["workload"]) for row in rows)], ["---"] * (len(rows) + 1)]
    lines += [[key, *(str(row[key]) for row in rows)] for key in rows[0] if key != "workload"]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines).replace(" --- ", "---")
