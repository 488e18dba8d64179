"""A small real sweep that several tests look at and none changes."""

import pytest
from making import TINY, command


@pytest.fixture(scope="session")
def finished_sweep(tmp_path_factory):
    directory = tmp_path_factory.mktemp("sweep")
    with pytest.MonkeyPatch.context() as patch:
        command(patch, "-m", *TINY, "data.train_samples=512", "model.width=16", "initializer=zeros,he_normal",
                "model.depth=2,3", "seed=0,1,2",
                f"hydra.sweep.dir={directory}", "hydra.callbacks.sweep.baseline=zeros",
                "hydra.callbacks.sweep.target=0.2")  # fmt: skip
    return directory
