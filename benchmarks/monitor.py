"""What monitoring costs: the same run with and without it, toggled every few steps, and the ratio of the step times.

    python -m benchmarks.monitor                          # everything, at 1 and 2 threads
    python -m benchmarks.monitor --workloads W1 --ways monitor --seconds 20
    python -m benchmarks.monitor --soak 20000             # memory and file size over many steps
    python -m benchmarks.monitor --layers 100 1000 10000  # cost over depth
    python -m benchmarks.monitor --parts --workloads W1 W3 --threads 1  # what the microseconds are spent on

Blocks of steps with and without hooks alternate inside one `Trainer.fit`, so that whatever else the machine does hits
both alike. Each pair of neighbouring blocks gives a ratio of their median step times; told are the median of these
ratios and its bootstrap interval.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.environment import environment
from benchmarks.monitoring.parts import Clock, medians, table, timed_monitor
from benchmarks.monitoring.scale import depth, soak
from benchmarks.monitoring.ways import WAYS, Way
from benchmarks.monitoring.workloads import WORKLOADS, Lit, trainer_for

Row: TypeAlias = dict[str, object]

RESULTS = Path(__file__).parent / "results"
BLOCK = 10  # steps with or without monitoring before the other has its turn
SHORT = {"W2": 3}  # whose steps are so long that nothing of the last one is left in a cache
PAIRS = 8  # blocks of each kind at least, however long they take; the first two pairs warm up


class Toggle(Callback):
    """Switches a way of monitoring on and off, and takes the time of each step."""

    def __init__(self, way: Way, seconds: float, block: int) -> None:
        self.way, self.seconds, self.block = way, seconds, block
        self.blocks: dict[bool, list[list[float]]] = {True: [], False: []}
        self.active, self.count, self.began = False, 0, 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.way.start(trainer, pl_module)
        self.way.off()
        self.until = time.perf_counter() + self.seconds

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        now = time.perf_counter()
        if self.count % self.block == 0:
            self.active = not self.active
            (self.way.on if self.active else self.way.off)()
            self.blocks[self.active].append([])
            trainer.should_stop = now > self.until and len(self.blocks[True]) > PAIRS
        elif self.count:
            self.blocks[self.active][-1].append(now - self.began)
        self.count += 1
        self.began = time.perf_counter()
        if self.active:
            self.way.batch_start(trainer, pl_module)

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        if self.active:
            self.way.before_step(trainer, pl_module, optimizer)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        if self.active:
            self.way.batch_end(trainer, pl_module)


def measure(workload: str, way: str, threads: int, seconds: float) -> Row:
    return {"workload": workload, "way": way, "threads": threads, **compared(workload, WAYS[way](), threads, seconds)}


def compared(workload: str, way: Way, threads: int, seconds: float) -> Row:
    """Return the ratio of the step times with and without `way`, its interval, and what the steps took."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    build, shape = WORKLOADS[workload]
    data = TensorDataset(torch.randn(shape).repeat(4, *[1] * (len(shape) - 1)), torch.randint(10, (4 * shape[0],)))
    toggle = Toggle(way, seconds, SHORT.get(workload, BLOCK))
    with tempfile.TemporaryDirectory() as directory:
        trainer = trainer_for(directory, toggle, max_epochs=-1)
        trainer.fit(Lit(build()), DataLoader(data, batch_size=shape[0]))
    pairs = [(on, off) for on, off in zip(toggle.blocks[True], toggle.blocks[False], strict=False) if on and off][2:]
    ratio, low, high = bootstrap(pairs)
    off = float(np.median([t for _, block in pairs for t in block]))
    means = [float(np.mean([t for pair in pairs for t in pair[which]])) for which in (0, 1)]
    return {
        "ratio": round(ratio, 4),
        "low": round(low, 4),
        "high": round(high, 4),
        "ratio_of_means": round(means[0] / means[1], 4),
        "step_ms": round(1e3 * off, 3),
        "added_us": round(1e6 * off * (ratio - 1), 1),
        "steps": sum(len(on) + len(off) for on, off in pairs),
    }


def bootstrap(pairs: list[tuple[list[float], list[float]]], draws: int = 1000) -> tuple[float, float, float]:
    """Median over neighbouring blocks of the ratio of their median step times, and its 95 % interval."""
    ratios = np.array([np.median(on) / np.median(off) for on, off in pairs])
    drawn = np.median(np.random.default_rng(0).choice(ratios, (draws, len(ratios))), axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(np.median(ratios)), float(low), float(high)


def compare(workloads: Sequence[str], ways: Sequence[str], threads: Sequence[int], seconds: float) -> Iterator[Row]:
    for workload, way, number in itertools.product(workloads, ways, threads):
        package = WAYS[way].needs
        if package is not None and importlib.util.find_spec(package) is None:
            yield {"workload": workload, "way": way, "threads": number, "skipped": f"{package} is not installed"}
        else:
            yield measure(workload, way, number, seconds)


def parts(workloads: Sequence[str], threads: Sequence[int], seconds: float) -> Iterator[Row]:
    """Yield, for each workload, the microseconds in each part of the monitor, and what it and empty hooks add."""
    for workload, number in itertools.product(workloads, threads):
        added = {
            way: compared(workload, WAYS[way](), number, seconds)["added_us"] for way in ("with alerts", "empty hooks")
        }
        clock, steps = Clock(), []
        with clock.running():
            compared(workload, timed_monitor(clock, steps)(), number, seconds)
        yield {
            "workload": workload,
            "threads": number,
            **medians(steps),
            "added to the step": added["with alerts"],
            "added by empty hooks": added["empty hooks"],
        }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", nargs="+", default=list(WORKLOADS), choices=list(WORKLOADS))
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--seconds", type=float, default=20.0)
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--soak", type=int, metavar="STEPS", help="instead: memory and file size over many steps")
    instead.add_argument("--layers", type=int, nargs="+", metavar="N", help="instead: cost over depth")
    instead.add_argument("--parts", action="store_true", help="instead: microseconds in each part of the monitor")
    parser.add_argument("--out", type=Path, help="JSON file for the figures; default: benchmarks/results/monitor*.json")
    options = parser.parse_args(arguments)
    warnings.filterwarnings("ignore")
    if options.soak:
        name, found = "monitor_soak", iter([soak(options.soak)])
    elif options.layers:
        name, found = "monitor_layers", (depth(n, totals=totals) for n in options.layers for totals in (True, False))
    elif options.parts:
        name, found = "monitor_parts", parts(options.workloads, options.threads, options.seconds)
    else:
        name, found = "monitor", compare(options.workloads, options.ways, options.threads, options.seconds)
    rows = write(found, options.out or RESULTS / f"{name}.json")
    if options.parts:
        print(table(rows))


def write(found: Iterator[Row], path: Path) -> list[Row]:
    """Print each row as it comes, write all of them with the environment as it was before, and return them."""
    before, rows = environment(), []
    for row in found:
        rows.append(row)
        print(row, flush=True)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"environment": before, "rows": rows}, indent=1) + "\n")
    return rows


if __name__ == "__main__":
    main()
