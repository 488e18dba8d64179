"""One Hydra job: recognise a finished run, train otherwise, and record whatever happens."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig

from examples import files, launch, progress, run
from examples.errors import UsageError
from examples.result import FILE, Result

log = logging.getLogger(__name__)
SENTENCES = (ValueError, TypeError, NotImplementedError)  # how our own code and lightning_init refuse bad input


def run_job(config: DictConfig, killed: str | None = None) -> float:
    """Run the job that Hydra has composed and return its final validation accuracy (0 if it failed).

    In a sweep a failure is recorded and the sweep goes on; alone it ends the process. `killed` is recorded as one.
    """
    job = HydraConfig.get()
    directory = Path(job.runtime.output_dir)
    sweep = Path(job.sweep.dir) if job.mode == RunMode.MULTIRUN else None
    choices = {group: str(option) for group, option in job.runtime.choices.items() if not group.startswith("hydra/")}
    result = run.start(config, choices, job.overrides.task)
    with files.alone(directory) if _is_first_process() else nullcontext():  # another sweep may be at work there
        try:
            finished = previous(directory, result)
        except UsageError as error:  # not a failure of this run, so nothing is recorded
            raise SystemExit(f"error: {error}") from None
        if finished is not None:
            result = finished
        elif killed:
            result.error = killed
            _record(result, directory)
        else:
            _attempt(config, result, directory, sweep, launch.threads(job.launcher))
    if _is_first_process():
        progress.show(result, directory, sweep, repeated=finished is not None)
    return result.last("val_accuracy") or 0.0


def previous(directory: Path, result: Result) -> Result | None:
    """Return the finished run of equal config in `directory`, or None; a run of another config is never replaced."""
    if not (directory / FILE).exists():
        return None
    try:
        found = Result.read(directory)
    except ValueError as error:
        raise UsageError(f"{error}; nothing was overwritten: move it away, or choose another directory") from None
    if found.fingerprint != result.fingerprint:
        keys = sorted(k for k in {*found.config, *result.config} if found.config.get(k) != result.config.get(k))
        raise UsageError(
            f"{directory} holds a run of another configuration (differing in {', '.join(keys)}); nothing was "
            "overwritten: choose another hydra.run.dir or hydra.sweep.dir"
        )
    return None if found.status == "failed" or found.damaged(directory) else found


def _attempt(config: DictConfig, result: Result, directory: Path, sweep: Path | None, share: int | None) -> None:
    if _is_first_process():  # an attempt may have been interrupted here
        files.remove_parts(directory)
        for leftover in directory.glob("events.out.tfevents.*"):
            leftover.unlink()
    try:
        run.execute(config, result, directory, in_sweep=sweep is not None, share=share if sweep else None)
    except Exception as error:
        cause = _cause(error)
        result.status, result.error = "failed", f"{type(cause).__name__}: {cause}"
        log.debug("the run failed", exc_info=True)
        if sweep is None:
            _record(result, directory)
            if isinstance(cause, SENTENCES):
                raise SystemExit(f"error: {cause}") from None
            raise
    _record(result, directory)


def _record(result: Result, directory: Path) -> None:
    if _is_first_process():
        result.write(directory)


def _cause(error: BaseException) -> BaseException:
    """Hydra wraps what a config target raises; the original says it better."""
    while isinstance(error, HydraException) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _is_first_process() -> bool:
    """Return whether this is not one of the processes that DDP, torchrun or Slurm's srun adds."""
    return rank_zero_only.rank == 0
