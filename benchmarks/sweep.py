"""How long sweeps take.

    python -m benchmarks.sweep [--quick]

Times the start of a run, and a sweep of 5 initializers x 3 seeds on digits: one run after another, and with joblib on
two cores if its plugin is installed. Writes benchmarks/results/sweep.json, with the load of the machine.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import results

ROOT = Path(__file__).resolve().parents[1]
GRID = ("initializer=zeros,small_random,torch_default,xavier_uniform,he_normal", "seed=0,1,2")


def timed(*arguments: str, cwd: str) -> tuple[float, str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, check=True, capture_output=True, text=True
    )
    return time.perf_counter() - begin, done.stdout


def sweep(*overrides: str) -> float:
    with tempfile.TemporaryDirectory() as folder:
        return timed("-m", "examples.train", "-m", *overrides, cwd=folder)[0]


def starting() -> dict[str, float]:
    """Time a run of one step, the second in its process: the first imports, and so does Hydra, all its plugins."""
    script = (
        "import sys, time, examples.train as t, examples.job; argv = sys.argv[1:]\n"
        "for i in range(2):\n"
        "    begin = time.perf_counter(); sys.argv[1:] = [*argv, f'hydra.run.dir={i}']; t.main()\n"
        "print(time.perf_counter() - begin)"
    )
    with tempfile.TemporaryDirectory() as folder:
        options = ("trainer.max_steps=1", "data.train_samples=64")
        printed = timed("-c", script, *options, cwd=folder)[1]
    return {"one run of one step, without imports": float(printed.split()[-1])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one epoch, two initializers: does it run at all?")
    options = parser.parse_args()
    grid = ("initializer=zeros,he_normal", "seed=0", "trainer.max_epochs=1") if options.quick else GRID
    before = os.getloadavg()[0]
    imports = "import examples.train, examples.job, examples.compare"
    figures = {
        "command line without a run": timed("-m", "examples.train", "--cfg", "job", cwd=str(ROOT))[0],
        "imports": timed("-c", imports, cwd=str(ROOT))[0],
        **starting(),
    }
    figures["sweep, one after another"] = sweep(*grid)
    if importlib.util.find_spec("hydra_plugins.hydra_joblib_launcher"):
        figures["sweep, joblib on two cores"] = sweep(*grid, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    results.write(
        "sweep", {"command": "python -m benchmarks.sweep", "seconds": figures, "load": [before, os.getloadavg()[0]]}
    )


if __name__ == "__main__":
    main()
