"""The processes in which a launcher of Hydra's runs the jobs of a sweep."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from omegaconf import DictConfig

SAME = ("n_jobs", "prefer", "verbose", "temp_folder", "max_nbytes", "mmap_mode")
"""What must be equal for joblib to use the processes again."""


def has_processes(launcher: DictConfig) -> bool:
    """Return whether jobs run in other processes than the one that started the sweep."""
    return not launcher._target_.endswith(".BasicLauncher")


@contextmanager
def processes(launcher: DictConfig) -> Iterator[None]:
    """Let `joblib.Parallel()` use the processes of the joblib launcher, which have imported nearly all; end them then.

    Under any other launcher it works in this process, one task after another.
    """
    if not launcher._target_.startswith("hydra_plugins.hydra_joblib_launcher."):
        yield
        return
    from joblib import parallel_config
    from joblib.externals.loky import get_reusable_executor

    try:
        with parallel_config("loky", **{name: launcher[name] for name in SAME}):
            yield
    finally:  # idle by now; to end in good order each would take torch apart, which takes it seconds
        get_reusable_executor(reuse=True).shutdown(kill_workers=True)
