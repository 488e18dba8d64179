"""The processes in which a launcher of Hydra's runs the jobs of a sweep."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import forkserver

from omegaconf import DictConfig

SAME = ("n_jobs", "prefer", "verbose", "temp_folder", "max_nbytes", "mmap_mode")
"""What must be equal for joblib to use the processes again."""
THREADS = "OMP_NUM_THREADS"


def has_processes(launcher: DictConfig) -> bool:
    """Return whether jobs run in other processes than the one that started the sweep."""
    return not launcher._target_.endswith(".BasicLauncher")


def prepare(launcher: DictConfig) -> None:
    """Start the process that those of the joblib launcher are forked from, and let it import all that they need.

    Otherwise each would import it. Linux only: what macOS brings along for torch and NumPy does not survive a fork.
    """
    if not _is_joblib(launcher) or sys.platform != "linux":
        return
    from joblib import cpu_count, effective_n_jobs
    from joblib.externals.loky.backend import context

    context.set_start_method("forkserver", force=True)  # Hydra's plugin leaves no other way to say it
    multiprocessing.set_forkserver_preload(["examples.preloaded"])
    given = os.environ.get(THREADS)
    os.environ[THREADS] = given or str(
        max(cpu_count() // effective_n_jobs(launcher.n_jobs), 1)
    )  # as joblib itself does
    try:
        forkserver.ensure_running()
    finally:
        if given is None:
            del os.environ[THREADS]


@contextmanager
def processes(launcher: DictConfig) -> Iterator[None]:
    """Let `joblib.Parallel()` use the processes of the joblib launcher, which have imported nearly all; end them then.

    Under any other launcher it works in this process, one task after another.
    """
    if not _is_joblib(launcher):
        yield
        return
    from joblib import parallel_config
    from joblib.externals.loky import get_reusable_executor

    try:
        with parallel_config("loky", **{name: launcher[name] for name in SAME}):
            yield
    finally:  # idle by now; to end in good order each would take torch apart, which takes it seconds
        get_reusable_executor(reuse=True).shutdown(kill_workers=True)


def _is_joblib(launcher: DictConfig) -> bool:
    return launcher._target_.startswith("hydra_plugins.hydra_joblib_launcher.")
