"""A sweep of Ray's that goes on when a run ends its process again and again, as one does without enough memory."""

from __future__ import annotations

from types import SimpleNamespace

import ray
from hydra.core.utils import JobReturn
from hydra.types import HydraContext, TaskFunction
from hydra_plugins.hydra_ray_launcher import _core
from hydra_plugins.hydra_ray_launcher._launcher_util import launch_job_on_ray
from omegaconf import DictConfig
from ray.exceptions import RayError

from examples import lost

_calls: dict[ray.ObjectRef, tuple[HydraContext, DictConfig, TaskFunction]] = {}
"""What each job under way was started with."""


def use() -> None:
    """Have Hydra's Ray launcher start jobs and wait for them as below: it ends the sweep when it loses one."""
    _core.launch_job_on_ray, _core.ray = _launch, SimpleNamespace(get=_get)


def _launch(
    context: HydraContext, remote: DictConfig, config: DictConfig, task: TaskFunction, state: object
) -> ray.ObjectRef:
    job = launch_job_on_ray(context, remote, config, task, state)
    _calls[job] = context, config, task
    return job


def _get(job: ray.ObjectRef) -> JobReturn:
    context, config, task = _calls.pop(job)
    try:
        return ray.get(job)
    except RayError as error:
        why = f"Ray lost the job: {' '.join(str(error).split())}"
        return lost.record(context, config, task, config.hydra.job.num, why)
