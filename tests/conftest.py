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
    """Seed the global stream; take back what `seed_everything`, Trainers and Hydra's logging leave in the process."""
    torch.manual_seed(0)
    for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
        monkeypatch.setenv(name, "")  # remembered, and so restored
        monkeypatch.delenv(name)
    names = [name for name in logging.root.manager.loggerDict if name.startswith("lightning")]
    loggers = [logging.root, *map(logging.getLogger, names)]
    before = [(logger, logger.level, logger.disabled, logger.propagate) for logger in loggers]
    deterministic = torch.are_deterministic_algorithms_enabled()
    yield
    torch.use_deterministic_algorithms(deterministic)
    for logger, level, disabled, propagate in before:
        logger.setLevel(level)
        logger.disabled, logger.propagate = disabled, propagate
