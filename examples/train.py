"""Train a network with a chosen initializer, or sweep over choices with `-m`; the comparison is made when a sweep ends.

python -m examples.train initializer=he_normal model=cnn data=fashion_mnist trainer.max_epochs=2
python -m examples.train -m initializer=zeros,normal,xavier_uniform,he_normal seed=0,1,2
"""

from __future__ import annotations

import sys

import hydra
from omegaconf import DictConfig

from examples import arguments, imports, names, sizes  # noqa: F401  (they register the resolvers of conf/)
from examples.errors import UsageError


@hydra.main(version_base="1.3", config_path=str(arguments.CONF), config_name="config")
def train(config: DictConfig) -> float:
    """Run one job and return its final validation accuracy, which Hydra's Optuna sweeper maximises."""
    imports.heavy("examples.job")  # seconds; a process that only hands jobs to a launcher does without
    from examples import job

    return job.run_job(config)


def main() -> None:
    """Check the command line, then hand over to Hydra; mistakes end in one sentence and exit code 1."""
    try:
        arguments.check(sys.argv[1:])
    except UsageError as error:
        sys.exit(f"error: {error}")
    train()


if __name__ == "__main__":
    main()
