"""Diagnose a network before it is trained: which layer is ill, in which direction, and what would cure it.

python -m examples.diagnose model=deep_mlp initializer=xavier_normal
python -m examples.diagnose model=plain_cnn model.nonlinearity=tanh initializer=orthogonal plot=profile.png

It takes the options of examples.train; nothing is trained, and nothing is written but the picture asked for.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from examples import arguments, initializer, names, sizes  # noqa: F401  (they register the resolvers of conf/)
from examples.data import ImageData
from examples.errors import UsageError
from lightning_init import calibrate, initialize
from lightning_init.calibration import Calibration
from lightning_init.diagnosis import Diagnosis, diagnose

SAMPLES = 256


def diagnosis(config: DictConfig) -> Diagnosis:
    """Return the diagnosis of the configured model, initialized as configured, on its first training samples."""
    if config.threads:
        torch.set_num_threads(config.threads)
    data: ImageData = instantiate(config.data, seed=config.seed)
    torch.manual_seed(config.seed)
    model = instantiate(config.model, input_shape=data.image_shape, num_classes=data.num_classes, _convert_="all")
    options = OmegaConf.to_container(config.init, resolve=True)
    chosen, images = initializer.build(config.initializer), data.train.tensors[0][:SAMPLES]
    if isinstance(chosen, Calibration):
        calibrate(model, chosen, [images], seed=config.seed, **options)
    else:
        initialize(model, chosen, seed=config.seed, **options)
    return diagnose(model, images)


def main(overrides: Sequence[str]) -> None:
    """Print the diagnosis, and draw it where `plot=FILE` says; mistakes end in one sentence and exit code 1."""
    plots = [one.removeprefix("plot=") for one in overrides if one.startswith("plot=")]
    rest = [one for one in overrides if not one.startswith("plot=")]
    try:
        arguments.check(rest)
        with initialize_config_dir(str(arguments.CONF), version_base="1.3"):
            config = compose("config", overrides=rest)
        found = diagnosis(config)
    except (HydraException, UsageError, ValueError, TypeError) as error:
        sys.exit(f"error: {error.__cause__ or error}")
    print(found)
    for plot in plots:
        found.plot().savefig(plot)
        print(f"drawn in {plot}")


if __name__ == "__main__":
    main(sys.argv[1:])
