"""Sweeps in several processes: those of Hydra's joblib launcher, forked from one that has imported for all."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from making import TINY, command

pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="needs hydra-joblib-launcher, of the extra sweeps")

ROOT = Path(__file__).resolve().parents[2]
GRID = ["-m", *TINY, "initializer=zeros,he_normal", "seed=0,1", "data.num_workers=1", "init.bias=zeros,nonsense"]
JOBLIB = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")


def started(directory, *more):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "default", "SWEEP": str(directory)}
    words = [sys.executable, "-m", "examples.train", *GRID, *JOBLIB, *more, f"hydra.sweep.dir={directory}"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(words, cwd=directory.parent, env=environment, start_new_session=True, **pipes)


def processes(directory):
    """Return the ids of all processes that the sweep into `directory` has started, and its own."""
    return [place.name for place in Path("/proc").glob("[0-9]*") if f"SWEEP={directory}\0".encode() in settings(place)]


def settings(place):
    try:
        return (place / "environ").read_bytes()
    except OSError:  # it has ended meanwhile
        return b""


def gone(directory):
    for _ in range(600):
        if not processes(directory):
            return True
        time.sleep(0.1)
    return False


@linux
def test_they_make_the_comparison_that_one_process_makes(tmp_path, monkeypatch):
    sweep = started(tmp_path / "two")
    printed, warned = sweep.communicate()
    assert sweep.returncode == 0, warned
    assert gone(tmp_path / "two")
    assert "multi-threaded" not in warned, warned  # a fork amid threads may hang
    assert "8/8" in printed
    command(monkeypatch, *GRID, f"hydra.sweep.dir={tmp_path / 'one'}")
    one, two = (pd.read_csv(tmp_path / name / "runs.csv").drop(columns="seconds") for name in ("one", "two"))
    assert (one["status"] == "failed").sum() == 4
    pd.testing.assert_frame_equal(one, two)


@linux
def test_ctrl_c_ends_them_and_the_sweep_goes_on_afterwards(tmp_path):
    cut = started(tmp_path / "cut", "init.bias=zeros")
    while not list((tmp_path / "cut").glob("*/result.json")) and cut.poll() is None:
        time.sleep(0.1)
    os.killpg(cut.pid, signal.SIGINT)  # as a terminal does
    cut.communicate()
    assert gone(tmp_path / "cut")
    finished = len(list((tmp_path / "cut").glob("*/result.json")))
    again = started(tmp_path / "cut", "init.bias=zeros")
    printed, warned = again.communicate()
    assert again.returncode == 0, warned
    assert len(re.findall(r"\(was finished\)", printed)) == finished >= 1
    assert len(list((tmp_path / "cut").glob("*/result.json"))) == 4
