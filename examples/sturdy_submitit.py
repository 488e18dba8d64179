"""A sweep of submitit's that goes on when a job ends without a result, as one does that is cancelled or killed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from submitit import AutoExecutor, Job
from submitit.core.utils import UncompletedJobError

from examples import lost


class SturdyExecutor(AutoExecutor):
    """In place of `submitit.AutoExecutor` in Hydra's submitit launcher, where one lost job is the end of the sweep."""

    def __init__(self, folder: str, cluster: str, **options: object) -> None:
        try:
            super().__init__(folder, cluster, **options)
        except RuntimeError as error:
            raise SystemExit(f"error: hydra/launcher=submitit_{cluster} is impossible here: {error}") from None

    def map_array(self, launcher: Launcher, *columns: Iterable[object]) -> list[SturdyJob]:
        """Submit one job for each call of `launcher(overrides, key of the directory, number, id, state)`."""
        calls = list(zip(*columns, strict=True))
        try:
            jobs = super().map_array(launcher, *columns)
        except (OSError, RuntimeError) as error:
            raise SystemExit(f"error: the jobs were not taken: {' '.join(str(error).split())}") from None
        return [SturdyJob(job, launcher, call[0], call[2]) for job, call in zip(jobs, calls, strict=True)]


@dataclass(frozen=True)
class SturdyJob:
    """A job, of which `launcher` wants to know what came out."""

    job: Job[JobReturn]
    launcher: Launcher
    overrides: Sequence[str]
    number: int

    def results(self) -> list[JobReturn]:
        """Wait for the job and return what each of its tasks returned."""
        try:
            return self.job.results()
        except UncompletedJobError:
            job = self.job.task(0)
            why = f"the job {job.job_id} ended without a result ({job.state}); what it said: {job.paths.stderr}"
            launcher = self.launcher
            config = launcher.hydra_context.config_loader.load_sweep_config(launcher.config, list(self.overrides))
            return [lost.record(launcher.hydra_context, config, launcher.task_function, self.number, why)]
