"""Train a network with a chosen initializer, or sweep over choices with `-m`; the comparison is made when a sweep ends.

python -m examples.train initializer=he_normal model=cnn data=fashion_mnist trainer.max_epochs=2
python -m examples.train -m initializer=zeros,normal,xavier_uniform,he_normal seed=0,1,2
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from examples import imports, launch

if TYPE_CHECKING:
    from omegaconf import DictConfig


def train(config: DictConfig, killed: str | None = None) -> float:
    """Run one job and return its final validation accuracy, which Hydra's Optuna sweeper maximises.

    `killed` says why it cannot be run and is to be recorded as failed: its process would die.
    """
    imports.heavy("examples.job")  # seconds; a process that only hands jobs to a launcher does without
    from examples import job

    return job.run_job(config, killed)


def main() -> None:
    """Check the command line, then hand over to Hydra; mistakes end in one sentence and exit code 1."""
    launch.foresee(sys.argv[1:])
    import hydra  # here: it takes as long as that process needs to get going

    from examples import arguments, sweep  # noqa: F401  (it registers the resolvers of conf/)
    from examples.errors import UsageError

    try:
        arguments.check(sys.argv[1:])
    except UsageError as error:
        sys.exit(f"error: {error}")
    hydra.main(version_base="1.3", config_path=str(arguments.CONF), config_name="config")(train)()


if __name__ == "__main__":
    main()
