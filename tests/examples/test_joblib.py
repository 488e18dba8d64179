"""Sweeps in several processes: those of Hydra's joblib launcher, forked from one that has imported for all."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from making import TINY, command

pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="needs hydra-joblib-launcher, of the extra sweeps")

ROOT = Path(__file__).resolve().parents[2]
DEADLY = """
import os, pathlib, signal
from examples.models import mlp

def always(**_):
    os.kill(os.getpid(), signal.SIGKILL)  # as the system does when there is no memory left

def once(**options):
    been = pathlib.Path(__file__).with_name("been")
    if not been.exists():
        been.touch()
        os._exit(3)
    return mlp(**options)
"""
GRID = ["-m", *TINY, "initializer=zeros,he_normal", "seed=0,1", "data.num_workers=1", "init.bias=zeros,nonsense"]
JOBLIB = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
PATIENCE = 100  # seconds that processes may take to end; those that joblib forgets wait 300 seconds for work
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere no process is forked")


def started(directory, *more):
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}:{directory.parent}",
        "PYTHONWARNINGS": "default",
        "PYTHONUNBUFFERED": "1",
    }
    words = [sys.executable, "-m", "examples.train", *GRID, *JOBLIB, *more, f"hydra.sweep.dir={directory}"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(
        words, cwd=directory.parent, env=environment, start_new_session=True, preexec_fn=heed_signals, **pipes
    )


def heed_signals():
    """Which `nohup`, and a shell for what goes on behind it, have whoever they start ignore, these tests too."""
    for one in (signal.SIGHUP, signal.SIGINT):
        signal.signal(one, signal.SIG_DFL)


def ended(sweep):
    """Wait for the end of all processes of a sweep, when its pipes close; return what they wrote."""
    try:
        return sweep.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        os.killpg(sweep.pid, signal.SIGKILL)
        raise


def read_to(sweep, text):
    """Read what a sweep prints up to the line with `text`."""
    for line in sweep.stdout:
        if text in line:
            return
    pytest.fail(f"it ended without {text!r}: {sweep.stderr.read()}")


def results(directory):
    return list(directory.glob("*/result.json"))


def tables(directory):
    """Return the tables of a sweep without the columns of times."""
    frames = [pd.read_csv(directory / name) for name in ("runs.csv", "comparison.csv")]
    return [frame.drop(columns=[column for column in frame if "seconds" in column]) for frame in frames]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The directory of a sweep that nobody disturbed, and what it printed."""
    directory = tmp_path_factory.mktemp("joblib") / "whole"
    sweep = started(directory)
    printed, warned = ended(sweep)
    assert sweep.returncode == 0, warned
    return directory, printed, warned


@linux
def test_they_make_the_comparison_that_one_process_makes(whole, tmp_path, monkeypatch):
    directory, printed, warned = whole
    assert "multi-threaded" not in warned, warned  # a fork amid threads may hang
    assert "8/8" in printed
    command(monkeypatch, *GRID, f"hydra.sweep.dir={tmp_path}")
    assert (pd.read_csv(tmp_path / "runs.csv")["status"] == "failed").sum() == 4
    for one, two in zip(tables(tmp_path), tables(directory), strict=True):
        pd.testing.assert_frame_equal(one, two)


@linux
def test_ctrl_c_ends_them_and_the_sweep_goes_on_afterwards(tmp_path):
    cut = started(tmp_path / "cut", "init.bias=zeros")
    read_to(cut, "/4, ")  # not "[1/4": two runs that end at once may both count two
    os.killpg(cut.pid, signal.SIGINT)  # as a terminal does
    ended(cut)  # a run whose loader it ended first has failed, and is made again
    ends = {file.parent.name: json.loads(file.read_text())["status"] for file in results(tmp_path / "cut")}
    finished = {name for name, status in ends.items() if status == "ok"}
    again = started(tmp_path / "cut", "init.bias=zeros")
    printed, warned = ended(again)
    assert again.returncode == 0, warned
    assert finished
    assert set(re.findall(r"\]  (\S+)  .*\(was finished\)", printed)) == finished, printed
    assert len(results(tmp_path / "cut")) == 4


@linux
def test_they_end_with_the_process_that_started_them_however_it_is_killed(whole, tmp_path):
    """While they import, between runs, and at the comparison: it has no time to tell them."""
    for death, moment in ((signal.SIGTERM, "8 runs into"), (signal.SIGKILL, "/8, "), (signal.SIGHUP, "[8/8")):
        cut = started(tmp_path / "cut")
        read_to(cut, moment)
        cut.send_signal(death)  # to this one alone
        ended(cut)
        assert cut.returncode == -death
    again = started(tmp_path / "cut")
    _, warned = ended(again)
    assert again.returncode == 0, warned
    for one, two in zip(tables(whole[0]), tables(tmp_path / "cut"), strict=True):
        pd.testing.assert_frame_equal(one, two)


@linux
@pytest.mark.parametrize(("dies", "status"), [("always", "failed"), ("once", "ok")])
def test_a_run_that_ends_its_process_is_made_again_alone_and_costs_no_other(tmp_path, dies, status):
    (tmp_path / "deadly.py").write_text(DEADLY)
    models = f"model._target_=deadly.{dies},examples.models.mlp"
    sweep = started(tmp_path / "sweep", models, "init.bias=zeros", "initializer=zeros")
    printed, warned = ended(sweep)
    assert sweep.returncode == 0, warned
    runs = pd.read_csv(tmp_path / "sweep/runs.csv").set_index("model._target_")["status"]
    assert set(runs.items()) == {(f"deadly.{dies}", status), ("examples.models.mlp", "ok")}
    assert runs.size == 4
    assert "note: a process of the sweep ended by" in printed
    assert ("a process of the sweep ended by SIGKILL(-9), when it was alone too" in printed) == (dies == "always")


def test_a_run_whose_loader_was_killed_first_counts_as_under_way(tmp_path):
    """joblib kills the children of its processes before these, which may have the time to record a failure."""
    from examples import sturdy

    for name, error in (("a", "RuntimeError: DataLoader worker (pid 7) is killed by signal: Killed."), ("b", "other")):
        (tmp_path / name / ".hydra").mkdir(parents=True)
        (tmp_path / name / ".hydra/overrides.yaml").write_text(f"- seed={name}\n")
        (tmp_path / name / "result.json").write_text(json.dumps({"overrides": [f"seed={name}"], "error": error}))
    config = SimpleNamespace(hydra=SimpleNamespace(sweep=SimpleNamespace(dir=tmp_path)))
    tasks = [(None, (0, [f"seed={name}"], None, config, None, None), {}) for name in "ab"]
    assert [sturdy._is_under_way(task) for task in tasks] == [True, False]


@linux
def test_no_process_at_all_is_refused(tmp_path):
    sweep = started(tmp_path / "sweep", "hydra.launcher.n_jobs=0")
    assert ended(sweep)[1].startswith("error: hydra.launcher.n_jobs=0 is impossible")
    assert sweep.returncode == 1
