"""A job that its queue lost: cancelled, killed, out of time or of memory. Its run is recorded as failed."""

from __future__ import annotations

from functools import partial

from hydra.core.utils import JobReturn, run_job
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict


def record(context: HydraContext, config: DictConfig, task: TaskFunction, number: int, why: str) -> JobReturn:
    """Record that the run of the composed `config` failed, and `why`, unless it was finished all the same."""
    with open_dict(config):
        config.hydra.job.update(id=f"lost {number}", num=number)
    return run_job(
        hydra_context=context,
        task_function=partial(task, killed=why),
        config=config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
        configure_logging=False,  # this is the process that started the sweep
    )
