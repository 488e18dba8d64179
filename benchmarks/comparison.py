"""How long the comparison of very many runs takes, and how much memory.

    python -m benchmarks.comparison [--runs 1000]

Makes that many synthetic runs (10 initializers x 10 depths x seeds, event files with every signal of every layer at
every step), compares them in a fresh process and writes benchmarks/results/comparison.json. The goal for 1,000 runs is
20 s and 1 GiB.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from benchmarks import results
from examples.result import Result, checksums
from lightning_init.event_writer import EventWriter

ROOT = Path(__file__).resolve().parents[1]
INITIALIZERS, DEPTHS, EPOCHS, STEPS = 10, 10, 10, 230
SIGNALS = ("weight_variance", "activation_variance", "gradient_norm")
COMPARE = (
    "import sys; from examples import compare; compare.main(sys.argv[1:])\n"
    "print(*(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
)
"""Linux only; `getrusage` would count what the parent had, too."""


def synthetic(directory: Path, number: int) -> None:
    """Write run number `number`: signals that decay or grow with depth, accuracies that rise from epoch to epoch."""
    rng = np.random.default_rng(number)
    name, depth, seed = number % INITIALIZERS, number // INITIALIZERS % DEPTHS + 2, number // (INITIALIZERS * DEPTHS)
    layers = [f"model.linear{i}" for i in range(1, depth)] + ["model.head"]
    factor = 0.5 + 0.1 * name
    profile = np.exp(np.arange(depth) * np.log(factor) + 0.05 * rng.normal(size=(len(SIGNALS), depth)))
    tags = [f"{signal}/{layer}" for signal in SIGNALS for layer in layers]
    directory.mkdir(parents=True)
    with SummaryWriter(str(directory)) as writer:
        events = EventWriter(writer)
        for step in range(STEPS):
            events.write(step, dict(zip(tags, (profile * (1 + step / STEPS)).ravel().tolist(), strict=True)))
    accuracy = np.clip(np.linspace(0.3, 0.9, EPOCHS) - 0.02 * depth + 0.03 * rng.normal(), 0, 1)
    Result(
        status="ok",
        initializer=f"initializer_{name}",
        seed=seed,
        choices={"initializer": f"initializer_{name}", "model": "mlp", "data": "digits", "optimizer": "adam"},
        overrides=[f"initializer=initializer_{name}", f"model.depth={depth}", f"seed={seed}"],
        config={"seed": seed, "model.depth": depth, **{f"setting.{i}": i for i in range(60)}},
        history={
            "step": [STEPS // EPOCHS * (epoch + 1.0) for epoch in range(EPOCHS)],
            "val_accuracy": accuracy.tolist(),
            "val_loss": (1 - accuracy).tolist(),
            "train_loss": (1 - accuracy).tolist(),
        },
        layers=layers,
        profile={
            when: dict(zip(SIGNALS, (profile * scale).tolist(), strict=True))
            for when, scale in (("first", 1), ("last", 2))
        },
        chance=0.1,
        events=checksums(directory),
        seconds=1.0,
    ).write(directory)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=1000)
    options = parser.parse_args()
    before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.runs):
            synthetic(Path(folder) / f"run{number}", number)
        size = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
        begin, cpu = time.perf_counter(), os.times()
        done = subprocess.run(
            [sys.executable, "-c", COMPARE, folder, "--baseline", "initializer_0"],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            check=True,
            capture_output=True,
            text=True,
        )
        seconds, after = time.perf_counter() - begin, os.times()
    results.write(
        "comparison",
        {
            "command": "python -m benchmarks.comparison",
            "runs": options.runs,
            "MiB on disk": size / 2**20,
            "seconds, with imports": seconds,
            "seconds of CPU": after.children_user + after.children_system - cpu.children_user - cpu.children_system,
            "peak MiB": int(done.stdout.split()[-1]) / 1024,
            "load": [before, os.getloadavg()[0]],
        },
    )


if __name__ == "__main__":
    main()
