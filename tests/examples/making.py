"""What the tests of the examples share: composed configs, the whole command line in-process, hand-made results."""

import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from examples import fashion_mnist, train
from examples.arguments import CONF
from examples.data import DEFAULT_ROOT
from examples.result import Result

needs_data = pytest.mark.skipif(
    not fashion_mnist.FOLDER.is_dir() and not (DEFAULT_ROOT / "FashionMNIST").is_dir(),
    reason="needs Fashion-MNIST: Debian's dataset-fashion-mnist, or downloaded once",
)
TINY = [
    "model.width=8",
    "model.depth=2",
    "data.train_samples=64",
    "data.batch_size=32",
    "trainer.max_epochs=2",
    "trainer.accelerator=cpu",
]


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides=list(overrides))


def tiny(*overrides: str) -> DictConfig:
    """Compose the default config at its smallest, with further overrides."""
    return composed(*TINY, *overrides)


def command(monkeypatch, *arguments: str) -> None:
    """Run `python -m examples.train ARGUMENTS` in this process."""
    GlobalHydra.instance().clear()
    monkeypatch.setattr(sys, "argv", ["examples.train", *arguments])
    train.main()


def made_up(directory: Path, *, initializer="zeros", seed=0, accuracy=(0.1,), status="ok", overrides=(), **config):
    """Write the result of a run that never was."""
    result = Result(
        status=status,
        initializer=initializer,
        seed=seed,
        choices={"initializer": initializer, "model": "mlp", "data": "digits"},
        overrides=[f"initializer={initializer}", f"seed={seed}", *overrides],
        config={"seed": seed, **config},
        history={
            "val_accuracy": list(accuracy),
            "train_loss": [1.0] * len(accuracy),
            "step": [10 * (epoch + 1) for epoch in range(len(accuracy))],
        }
        if accuracy
        else {},
        chance=0.1,
        seconds=2.0,
    )
    result.write(directory)
    return result
