"""The processes in which a launcher of Hydra's runs the jobs of a sweep.

On Linux those of joblib are forked from one, the server, that has imported all that they need (`examples.preloaded`);
otherwise each would import it. What macOS brings along for torch and NumPy does not survive a fork.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import forkserver
from typing import TYPE_CHECKING

from examples.errors import UsageError

if TYPE_CHECKING:
    from joblib.externals.loky import ProcessPoolExecutor
    from omegaconf import DictConfig

SAME = ("n_jobs", "prefer", "verbose", "temp_folder", "max_nbytes", "mmap_mode")
"""What must be equal for joblib to use the processes again."""
FORKS = sys.platform == "linux"
PARENT = "LIGHTNING_INIT_SWEEP"
"""The environment variable that tells the server who started it."""


def has_processes(launcher: DictConfig) -> bool:
    """Return whether jobs run in other processes than the one that started the sweep."""
    return not (launcher._target_.endswith(".BasicLauncher") or (_is_joblib(launcher) and launcher.n_jobs == 1))


def foresee(arguments: Sequence[str]) -> None:
    """Start the server if the command line asks for joblib: it then imports while this process still composes."""
    given = set(arguments)
    asked = "hydra/launcher=joblib" in given and "hydra.launcher.n_jobs=1" not in given
    if FORKS and asked and given & {"-m", "--multirun"}:
        with suppress(OSError):  # `prepare` will say it
            _start_server()


def prepare(launcher: DictConfig) -> None:
    """Have a sweep go on when a job dies, and the processes of joblib's forked from the server, where there can be one.

    Raises:
        UsageError: there would be no process at all.
    """
    if is_submitit(launcher):
        import submitit

        from examples.sturdy_submitit import SturdyExecutor

        submitit.AutoExecutor = SturdyExecutor
    if launcher._target_.startswith("hydra_plugins.hydra_ray_launcher."):
        from examples import sturdy_ray

        sturdy_ray.use()
    if not _is_joblib(launcher):
        return
    if launcher.n_jobs == 0:
        raise UsageError("hydra.launcher.n_jobs=0 is impossible: it is how many runs go at once, -1 for one per core")
    from hydra_plugins.hydra_joblib_launcher import _core
    from joblib.externals.loky.backend import context

    from examples import composed
    from examples.sturdy import SturdyParallel

    composed.keep()
    _core.Parallel = SturdyParallel  # Hydra's plugin leaves no other way to say it, nor the following
    if not FORKS:
        return
    try:
        _start_server()
    except OSError as error:
        print(f"note: each process of joblib's imports for itself, as none can do it for all: {error}", flush=True)
    else:
        context.set_start_method("forkserver", force=True)


@contextmanager
def processes(launcher: DictConfig) -> Iterator[None]:
    """Let `joblib.Parallel()` use the processes of the joblib launcher, which have imported nearly all; end them then.

    Under any other launcher it works in this process, one task after another.
    """
    if not (_is_joblib(launcher) and has_processes(launcher)):
        yield
        return
    from joblib import parallel_config
    from joblib.externals.loky import get_reusable_executor

    try:
        with parallel_config("loky", **{name: launcher[name] for name in SAME}):
            yield
    finally:
        _end(get_reusable_executor(reuse=True))


def threads(launcher: DictConfig) -> int | None:
    """Return how many threads a run gets that does not say it: its share of the cores; None leaves it to torch."""
    if not _is_joblib(launcher) or "OMP_NUM_THREADS" in os.environ:
        return None
    from joblib import cpu_count

    jobs = launcher.n_jobs if launcher.n_jobs > 0 else max(cpu_count() + 1 + launcher.n_jobs, 1)  # as joblib reads it
    return max(cpu_count() // jobs, 1)


def _start_server() -> None:
    """Start the server, unless it runs. Raises OSError, for example where TMPDIR is too long a name for a socket."""
    multiprocessing.set_forkserver_preload(["examples.preloaded"])
    ours = {PARENT: str(os.getpid()), "OPENBLAS_NUM_THREADS": "1"}  # NumPy's threads would not survive the fork either
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    try:
        forkserver.ensure_running()
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _end(executor: ProcessPoolExecutor) -> None:
    """Kill the processes, idle by now: to end in good order each would take torch apart, which takes it seconds.

    Then wait for the thread that fed them, which joblib does not: it frees a semaphore at its end, and where this
    process ends before that, Python warns of a leak.
    """
    feeder = executor._call_queue._thread  # noqa: SLF001 (there is no other way to the thread)
    executor.shutdown(kill_workers=True)
    if feeder is not None:
        feeder.join()


def is_submitit(launcher: DictConfig) -> bool:
    """Return whether jobs are submitit's: processes that it starts, or Slurm's."""
    return launcher._target_.startswith("hydra_plugins.hydra_submitit_launcher.")


def _is_joblib(launcher: DictConfig) -> bool:
    return launcher._target_.startswith("hydra_plugins.hydra_joblib_launcher.")
