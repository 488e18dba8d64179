"""How long sweeps take.

    python -m benchmarks.sweep [--quick]

Times the start of a run, and a sweep of 5 initializers x 3 seeds on digits: one run after another, and with joblib on
two cores if its plugin is installed; for both how the time is shared among imports, runs and comparison. Both are made
three times in turn: told are the median of each, and of the three ratios, with their range. Writes
benchmarks/results/sweep.json, with the load of the machine. Linux only.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import results

ROOT = Path(__file__).resolve().parents[1]
GRID = ("initializer=zeros,small_random,torch_default,xavier_uniform,he_normal", "seed=0,1,2")
ONE, TWO = "sweep, one after another", "sweep, joblib on two cores"
REPEATS = 3
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


def timed(*arguments: str, cwd: str) -> tuple[float, str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, check=True, capture_output=True, text=True
    )
    return time.perf_counter() - begin, done.stdout


def sweep(*overrides: str) -> dict[str, float]:
    """Return seconds by the clock of a sweep and of each of its parts, and seconds of CPU: its own and of others."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-u", "-m", "examples.train", "-m", *overrides]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        begin, ours, machine = time.perf_counter(), children(), busy()
        with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as process:
            lines = [(time.perf_counter() - begin, line) for line in process.stdout]
        total = time.perf_counter() - begin
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command)
        reap()
        ours, machine = children() - ours, busy() - machine
    return {**parts(lines, total), "of CPU": ours, "of CPU that others took": machine - ours}


def adopt() -> None:
    """Become the parent of what this process's children leave behind, so that its seconds of CPU are counted."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


def reap() -> None:
    """Wait for every process that is left."""
    try:
        while True:
            os.wait()
    except ChildProcessError:
        pass


def children() -> float:
    """Return the seconds of CPU that the ended children of this process took, their own included."""
    times = os.times()
    return times.children_user + times.children_system


def busy() -> float:
    """Return the seconds that the cores of this machine have worked, or were kept from it by its host; Linux only."""
    user, nice, system, _, _, *rest = map(int, Path("/proc/stat").read_text().split(maxsplit=9)[1:9])
    return (user + nice + system + sum(rest)) / os.sysconf("SC_CLK_TCK")


def parts(lines: Sequence[tuple[float, str]], total: float) -> dict[str, float]:
    """Return how the `total` seconds of a sweep are shared, from its lines and the seconds at which they came.

    >>> lines = [(1, "1 runs into x"), (12, "[1/1, 0 s left]  a  9 % accuracy in 1.5 s"), (16, "Comparison, best")]
    >>> parts(lines, 18)
    {'all': 18, 'start and imports': 10.5, 'runs': 1.5, 'comparison': 4, 'end': 2}
    """
    runs = [(second, float(line.split()[-2])) for second, line in lines if line.startswith("[")]
    first, last = min(second - own for second, own in runs), max(second for second, _ in runs)
    compared = next(second for second, line in lines if line.startswith("Comparison"))
    return {
        "all": total,
        "start and imports": first,
        "runs": last - first,
        "comparison": compared - last,
        "end": total - compared,
    }


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
    adopt()
    before = os.getloadavg()[0]
    imports = "import examples.train; examples.train.imports.heavy('examples.job', 'examples.compare')"
    figures: dict[str, Any] = {
        "command line without a run": timed("-m", "examples.train", "--cfg", "job", cwd=str(ROOT))[0],
        "imports": timed("-c", imports, cwd=str(ROOT))[0],
        **starting(),
    }
    launchers = {ONE: ()}
    if importlib.util.find_spec("hydra_plugins.hydra_joblib_launcher"):
        launchers[TWO] = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    repeats = 1 if options.quick else REPEATS
    made = [{name: sweep(*grid, *more) for name, more in launchers.items()} for _ in range(repeats)]
    for name in launchers:
        found = sorted((each[name] for each in made), key=lambda one: one["all"])
        figures[name] = found[len(found) // 2]
        figures[f"{name}: each"] = [each[name]["all"] for each in made]
    if TWO in launchers:
        ratios = [each[ONE]["all"] / each[TWO]["all"] for each in made]
        figures["joblib faster by"] = [statistics.median(ratios), min(ratios), max(ratios)]
    results.write(
        "sweep", {"command": "python -m benchmarks.sweep", "seconds": figures, "load": [before, os.getloadavg()[0]]}
    )


if __name__ == "__main__":
    main()
