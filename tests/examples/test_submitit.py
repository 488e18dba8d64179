"""Sweeps of submitit's: those of one machine for real, and what Slurm may answer."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from making import TINY, command

submitit = pytest.importorskip("submitit", reason="needs hydra-submitit-launcher, of the extra sweeps")
pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="needs hydra-submitit-launcher")

ROOT = Path(__file__).resolve().parents[2]
DEADLY = """
import os, pathlib, signal
from examples.models import mlp

def once(**options):
    been = pathlib.Path(__file__).with_name("been")
    if not been.exists():
        been.touch()
        os.kill(os.getpid(), signal.SIGKILL)  # as the system does when there is no memory left
    return mlp(**options)
"""


@pytest.fixture
def slurm(monkeypatch, tmp_path):
    """Return a function that starts a sweep on a cluster which refuses all jobs."""
    monkeypatch.setattr(submitit, "AutoExecutor", submitit.AutoExecutor)  # to be restored
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in {"srun": "exit 0", "sbatch": "echo sbatch: error: invalid partition >&2; exit 1"}.items():
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")

    def start():
        command(monkeypatch, "-m", *TINY, "seed=0,1", "hydra/launcher=submitit_slurm",
                f"hydra.sweep.dir={tmp_path / 's'}")  # fmt: skip

    return start


def test_a_killed_job_is_recorded_as_failed_and_made_again_when_the_command_is_repeated(tmp_path):
    (tmp_path / "deadly.py").write_text(DEADLY)
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}", "OMP_NUM_THREADS": "1"}
    sweep = [sys.executable, "-m", "examples.train", "-m", *TINY, "initializer=zeros", "seed=0",
             "model._target_=examples.models.mlp,deadly.once", "hydra/launcher=submitit_local",
             f"hydra.sweep.dir={tmp_path / 's'}"]  # fmt: skip
    done = subprocess.run(sweep, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert "\n[1/2, " in done.stdout  # what becomes of the jobs is followed
    assert "deadly.once  FAILED: the job" in done.stdout
    assert sorted(pd.read_csv(tmp_path / "s/runs.csv")["status"]) == ["failed", "ok"]
    assert "ended without a result" in (tmp_path / "s/comparison.md").read_text()
    subprocess.run(sweep, cwd=tmp_path, env=environment, capture_output=True, check=True)
    runs = pd.read_csv(tmp_path / "s/runs.csv")
    assert runs["status"].tolist() == ["ok", "ok"]
    assert runs["val_accuracy"].nunique() == 1


def test_what_slurm_refuses_is_one_sentence(slurm):
    with pytest.raises(SystemExit, match=r"^error: the jobs were not taken: .*invalid partition") as end:
        slurm()
    assert "\n" not in str(end.value)


def test_a_machine_without_slurm_is_one_sentence(slurm, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(SystemExit, match=r"^error: hydra/launcher=submitit_slurm is impossible here: .*srun") as end:
        slurm()
    assert "\n" not in str(end.value)
