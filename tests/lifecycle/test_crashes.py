"""A run that dies leaves readable event files; resumed, it goes on where its checkpoint was, on the same step axis."""

import multiprocessing
import os
import signal
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lits import Lit, callback, expected, loader, same, trainer
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from lightning_init import SignalMonitor

pytestmark = [
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended"),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork"),
]
SAVED, DEAD = 4, 6  # a checkpoint after so many steps; the batch whose training_step is the last


class Dies(Lit):
    end = None

    def training_step(self, batch, batch_idx):
        if batch_idx == DEAD and self.end == "exception":
            raise RuntimeError("on purpose")
        if batch_idx == DEAD and self.end is not None:
            os.kill(os.getpid(), self.end)
        return super().training_step(batch, batch_idx)


def run(folder, end=None, ckpt_path=None):
    torch.manual_seed(0)
    if end == signal.SIGINT:  # a process started in the background ignores it, and so do its children
        signal.signal(signal.SIGINT, signal.default_int_handler)
    module = Dies()
    module.end = end
    runner = trainer(
        folder,
        callback(monitor=SignalMonitor()),
        ModelCheckpoint(folder / "saved", every_n_train_steps=SAVED, save_last=True),
        logger=TensorBoardLogger(folder, name="", version="run"),
        enable_checkpointing=True,
    )
    runner.fit(module, loader(batches=10), ckpt_path=ckpt_path)
    return module


def files(folder):
    return set(folder.rglob("*tfevents*"))


def points(files, tag="weight_variance/net.0"):
    """Every (step, value) of `tag`, in the order of writing."""
    events = [event for file in files for event in EventFileLoader(str(file)).Load()]
    return [(e.step, value.tensor.float_val[0]) for e in events for value in e.summary.value if value.tag == tag]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    module = run(folder)
    assert same(module.first, expected())
    return points(files(folder))


@pytest.mark.parametrize(
    ("end", "kept"),
    [(signal.SIGKILL, SAVED), (signal.SIGTERM, DEAD + 1), (signal.SIGINT, DEAD), ("exception", DEAD)],
    ids=["SIGKILL", "SIGTERM", "Ctrl-C", "exception"],
)
def test_what_was_logged_survives_and_resuming_continues(tmp_path, unbroken, end, kept):
    assert [step for step, _ in unbroken] == list(range(10))
    process = multiprocessing.get_context("fork").Process(target=run, args=(tmp_path, end))
    process.start()
    process.join(60)
    assert process.exitcode is not None
    before = files(tmp_path)
    left = points(before)
    assert left == unbroken[: len(left)]
    assert kept <= len(left) <= DEAD + 1

    saved = torch.load(tmp_path / "saved" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == SAVED
    module = run(tmp_path, ckpt_path="last")
    assert same(module.first, saved["state_dict"])
    resumed = points(files(tmp_path) - before)
    assert [step for step, _ in resumed] == list(range(SAVED, 10))
    assert resumed[0] == unbroken[SAVED]


def test_a_checkpoint_also_brings_to_disk_what_a_csv_logger_collects(tmp_path):
    class Looks(Lit):
        def training_step(self, batch, batch_idx):
            if batch_idx == SAVED:
                self.seen = len(Path(logger.log_dir, "metrics.csv").read_text().splitlines()) - 1
            return super().training_step(batch, batch_idx)

    logger, module = CSVLogger(tmp_path), Looks()
    saver = ModelCheckpoint(tmp_path / "saved", every_n_train_steps=SAVED)
    trainer(tmp_path, SignalMonitor(), saver, logger=logger, enable_checkpointing=True).fit(module, loader(6))
    assert module.seen == SAVED
