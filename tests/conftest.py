"""What every test shares: a seeded global stream, one thread, and nothing left behind for the next test."""

import logging
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # also of the processes that tests start

import pytest
import torch

# Tests run in parallel processes, and some fork: a forked child hangs in a pool of threads that only its parent has.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    """Seed the global stream; undo what `seed_everything`, Trainers and Hydra's logging leave in the process.

    Before the test, to a stated condition: a fixture of a module or a session runs earlier than this one.
    """
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(False)
    for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
        monkeypatch.setenv(name, "")  # remembered, and so restored
        monkeypatch.delenv(name)
    logging.root.setLevel(logging.WARNING)
    logging.root.disabled = False
    for name in [name for name in logging.root.manager.loggerDict if name.startswith("lightning")]:
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO if name in ("lightning.pytorch", "lightning.fabric") else logging.NOTSET)
        logger.disabled, logger.propagate = False, True
