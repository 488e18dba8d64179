"""Many steps and many layers: whether memory and files stay flat, and what a layer costs among thousands."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import Callback, Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.monitoring.workloads import Lit, mlp, trainer_for
from lightning_init.callbacks.signal_monitor import SignalMonitor
from lightning_init.signals.probe import Probe


def resident_mib() -> float:
    """Return the resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def soak(steps: int) -> dict[str, object]:
    """Train for `steps` steps: resident memory every tenth of the way, and the size of the event file."""
    torch.manual_seed(0)
    memory: list[float] = []

    class Look(Callback):
        def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
            if trainer.global_step % max(1, steps // 10) == 0:
                memory.append(round(resident_mib(), 1))

    data = TensorDataset(torch.randn(64, 16), torch.randint(10, (64,)))
    monitor = SignalMonitor(alerts=False)
    with tempfile.TemporaryDirectory() as directory:
        trainer = trainer_for(directory, monitor, Look(), max_steps=steps)
        trainer.fit(Lit(mlp(16, 16, 16, 16, 10)), DataLoader(data, batch_size=16))
        size = sum(file.stat().st_size for file in Path(directory).rglob("*.tfevents.*"))
    tags = list(monitor.last[1])
    return {
        "steps": steps,
        "tags": len(tags),
        "resident_mib": memory,
        "bytes_per_value_without_tag": round(size / steps / len(tags) - sum(map(len, tags)) / len(tags), 2),
    }


def depth(layers: int, *, totals: bool, seconds: float = 15.0) -> dict[str, object]:
    """Time what monitoring adds to a step of a model of `layers` linear layers of width 8.

    The median over pairs of neighbouring steps, one with the probe and one without: at least ten, for `seconds`.
    """
    torch.manual_seed(0)
    net = nn.Sequential(*[nn.Linear(8, 8) for _ in range(layers)])
    x = torch.randn(4, 8)
    probe = Probe(net, layers=() if totals else None)
    times: dict[bool, list[float]] = {True: [], False: []}
    until = time.perf_counter() + seconds
    while len(times[True]) < 12 or time.perf_counter() < until:
        for on in (True, False):
            (probe.attach if on else probe.detach)()
            began = time.perf_counter()
            if on:
                probe.open()
            net.zero_grad()
            net(x).sum().backward()
            if on:
                probe.before_update()
                probe.close().values()
            times[on].append(time.perf_counter() - began)
    added = np.median(np.subtract(times[True], times[False])[2:])  # the first two warm up
    return {"layers": layers, "totals_only": totals, "added_us_per_layer": round(1e6 * float(added) / layers, 2)}
