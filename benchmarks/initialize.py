"""Time and memory to initialize a large model, against a loop of the same torch.nn.init calls, interleaved.

    python -m benchmarks.initialize [--parameters 1e9] [--rounds 5]

Writes benchmarks/results/initialize.json: per initializer the ratio ours / torch (median, lowest, highest over rounds)
and, measured in a process of its own, the peak memory over the model's size.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

import lightning_init
from benchmarks.environment import environment

WIDTH = 4096
TORCH: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "uniform": nn.init.uniform_,
    "normal": nn.init.normal_,
    "kaiming_normal": lambda w: nn.init.kaiming_normal_(w, nonlinearity="relu"),
    "kaiming_uniform": lambda w: nn.init.kaiming_uniform_(w, nonlinearity="relu"),
    "trunc_normal": nn.init.trunc_normal_,
    "orthogonal": nn.init.orthogonal_,
}
SMALLER = {"orthogonal": 1024}  # a QR of 4096 x 4096 takes seconds in either
FEWER = {"orthogonal": 50, "trunc_normal": 20}  # times fewer parameters: 1e9 of them take minutes in either


def make_model(parameters: float, width: int) -> nn.Module:
    """Return square layers with about `parameters` parameters, their memory touched."""
    with torch.device("meta"):
        layers = [nn.Linear(width, width) for _ in range(max(2, round(parameters / (width * width + width))))]
    model = nn.Sequential(*layers).to_empty(device="cpu")
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    return model


def by_torch(model: nn.Module, name: str) -> None:
    """What a careful user would write."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            TORCH[name](module.weight)
            nn.init.zeros_(module.bias)


def seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def measure(name: str, parameters: float, rounds: int) -> dict[str, float]:
    """Return the ratio ours / torch over interleaved rounds."""
    width = SMALLER.get(name, WIDTH)
    model = make_model(parameters / FEWER.get(name, 1), width)
    ours: list[float] = []
    theirs: list[float] = []
    ways = [
        (theirs, lambda: by_torch(model, name)),
        (ours, lambda: lightning_init.initialize(model, name, seed=0)),
    ]
    for _ in range(rounds):
        for times, way in ways:
            times.append(seconds(way))
        ways.reverse()  # neither always runs on the memory that the other has just warmed
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    count = sum(parameter.numel() for parameter in model.parameters())
    return {
        "parameters": count,
        "ratio": statistics.median(ratios),
        "ratio_low": min(ratios),
        "ratio_high": max(ratios),
        "seconds": statistics.median(ours),
    }


def peak_bytes() -> int:
    """Return the largest resident memory of this process so far (getrusage would begin with the parent's)."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def peak_memory(parameters: float) -> float:
    """Return the peak resident memory while initializing, over the size of the model (this process must be fresh)."""
    nothing = peak_bytes()
    model = make_model(parameters, WIDTH)
    size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    lightning_init.initialize(model, "kaiming_normal", seed=0)
    return (peak_bytes() - nothing) / size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parameters", type=float, default=1e9)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peak-memory", action="store_true", help="print the peak memory ratio and stop")
    options = parser.parse_args()
    if options.peak_memory:
        print(peak_memory(options.parameters))
        return
    found = environment()
    results: dict[str, object] = {}
    for name in TORCH:
        results[name] = measure(name, options.parameters, options.rounds)
        print(name, results[name], flush=True)
    again = [sys.executable, "-m", "benchmarks.initialize", "--peak-memory", "--parameters", str(options.parameters)]
    memory = float(subprocess.run(again, check=True, capture_output=True, text=True).stdout)
    print("peak memory / model", memory)
    path = Path(__file__).parent / "results" / "initialize.json"
    path.parent.mkdir(exist_ok=True)
    results = {"environment": found, "peak_memory_over_model": memory, "initializers": results}
    path.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
