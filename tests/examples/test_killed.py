"""A sweep that is killed again and again, at any moment, ends in the comparison of one that nobody disturbed."""

import multiprocessing
import os
import random
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from making import TINY, command

from examples import run
from examples.classifier import Classifier

SWEEP = ["-m", *TINY, "initializer=zeros,he_normal", "seed=0,1", "hydra.callbacks.sweep.baseline=zeros"]
MOMENTS = ("open", "os.rename", "os.remove", "os.mkdir", "step")  # whenever a file is touched, or a batch trained on
ATTEMPTS = 6


def sweep(directory, deadline, counted):
    """Make the sweep; die without a word at moment number `deadline`."""

    def count(event, _):
        if event in MOMENTS:
            counted.value += 1
            if counted.value == deadline:
                os.kill(os.getpid(), signal.SIGKILL)

    step = Classifier.training_step

    def training_step(self, batch, index):
        sys.audit("step")
        return step(self, batch, index)

    with pytest.MonkeyPatch.context() as patch, Path(os.devnull).open("w") as nowhere:
        patch.setattr(sys, "stdout", nowhere)
        patch.setattr(Classifier, "training_step", training_step)
        patch.setattr(
            run, "time", SimpleNamespace(perf_counter=lambda: 0.0)
        )  # all times are equal, so all bytes must be
        sys.addaudithook(count)
        command(patch, *SWEEP, f"hydra.sweep.dir={directory}")


def attempt(directory, deadline=-1):
    """Make the sweep in a process of its own; return how it ended and how many moments it had."""
    context = multiprocessing.get_context("fork")
    counted = context.Value("l", 0, lock=False)
    process = context.Process(target=sweep, args=(directory, deadline, counted))
    process.start()
    process.join()
    return process.exitcode, counted.value


def written(directory):
    return {file.name: file.read_bytes() for file in directory.iterdir() if file.is_file()}


@pytest.mark.parametrize("seed", [0])
def test_a_sweep_killed_at_any_moment_ends_in_the_same_comparison(tmp_path, seed):
    code, moments = attempt(tmp_path / "whole")
    assert code == 0
    rng = random.Random(seed)
    ends = [attempt(tmp_path / "cut", rng.randrange(moments))[0] for _ in range(ATTEMPTS)]
    assert -signal.SIGKILL in ends
    assert attempt(tmp_path / "cut")[0] == 0
    whole, cut = written(tmp_path / "whole"), written(tmp_path / "cut")
    for volatile in ("sweep.json", "multirun.yaml"):  # when it began, and where it lies
        del whole[volatile], cut[volatile]
    assert {"runs.csv", "comparison.csv", "comparison.html", "heat_map.png", "heat_map.svg"} <= whole.keys()
    assert whole == cut
