"""Sweeps that several tests look at: a small real one that none changes, and one of runs that never were."""

import itertools

import numpy as np
import pytest
from making import TINY, command, made_up


@pytest.fixture
def sweep(tmp_path):
    """Two initializers, three seeds and two widths with accuracies drawn at random: the results alone, no events."""
    rng = np.random.default_rng(0)
    for name, seed, width in itertools.product(["zeros", "he_normal"], [0, 1, 2], [8, 16]):
        accuracy = rng.uniform(0, 1, 3).tolist()
        extra = {"overrides": [f"model.width={width}"], "model.width": width, "model.depth": 2}
        made_up(tmp_path / f"{name}-{seed}-{width}", initializer=name, seed=seed, accuracy=accuracy, **extra)
    return tmp_path


@pytest.fixture(scope="session")
def finished_sweep(tmp_path_factory):
    directory = tmp_path_factory.mktemp("sweep")
    with pytest.MonkeyPatch.context() as patch:
        command(patch, "-m", *TINY, "data.train_samples=512", "model.width=16", "initializer=zeros,he_normal",
                "model.depth=2,3", "seed=0,1,2",
                f"hydra.sweep.dir={directory}", "hydra.callbacks.sweep.baseline=zeros",
                "hydra.callbacks.sweep.target=0.2")  # fmt: skip
    return directory
