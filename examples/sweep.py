"""Hydra's callbacks of a sweep: announce it, and compare its runs when it ends."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from hydra.utils import get_method
from omegaconf import DictConfig

from examples import arguments, files, imports, launch, names, plans, sizes  # noqa: F401  (names, sizes: resolvers of conf/)
from examples.errors import UsageError, check_target

_ended = threading.Event()
"""Set when no job of the sweep is left. (Not in the callback, which travels with each job.)"""


class SweepCallback(Callback):
    """Runs on the machine that started the sweep, whatever launcher runs the jobs.

    Args:
        baseline: the initializer to measure all others against.
        target: the accuracy to count steps to.
    """

    def __init__(self, baseline: str | None = None, target: float | None = None) -> None:
        self.options = {"baseline": baseline, "target": target}

    def on_run_start(self, config: DictConfig, **_: object) -> None:
        """Refuse a directory that cannot be written into, before Hydra does it with a traceback."""
        try:
            files.make(Path(config.hydra.run.dir))  # without its lock, which the first process of DDP holds
        except UsageError as error:
            raise SystemExit(f"error: {error}") from None

    def on_multirun_start(self, config: DictConfig, **_: object) -> None:
        """Say where the runs go and how to take up an interrupted sweep; refuse a target that the end would refuse."""
        try:
            check_target(self.options["target"])
            if launch.has_processes(config.hydra.launcher):
                launch.prepare(config.hydra.launcher)
            sweep, plan = Path(config.hydra.sweep.dir), _plan(config)
            others = plans.note(sweep, plan)
        except UsageError as error:
            raise SystemExit(f"error: {error}") from None
        again = f"interrupted? repeat the command with hydra.sweep.dir={sweep}"
        print(f"{plan.total} runs into {sweep}  ({again})", flush=True)
        for other in others:
            print(f"note: runs of another sweep are there and will be compared too: {other}", flush=True)
        if launch.has_processes(config.hydra.launcher):  # this one only waits for them, and can import meanwhile
            threading.Thread(target=_import).start()
        if launch.is_submitit(config.hydra.launcher):
            from examples import progress  # here: it takes a tenth of a second

            _ended.clear()
            threading.Thread(target=progress.follow, args=(sweep, _ended), daemon=True).start()

    def on_multirun_end(self, config: DictConfig, **_: object) -> None:
        """Write and print the comparison; end with an error if no run came through."""
        sweep = Path(config.hydra.sweep.dir)
        _ended.set()
        if "n_trials" in config.hydra.sweeper:
            plans.end(sweep, _plan(config))
        try:
            with launch.processes(config.hydra.launcher):
                _conclude(config, sweep, self.options)
        except UsageError as error:
            raise SystemExit(f"error: {error}") from None
        except Exception:  # noqa: BLE001  Hydra would turn it into a warning and exit code 0
            traceback.print_exc()
            raise SystemExit(1) from None


def _import() -> None:
    with suppress(RuntimeError):  # the jobs were refused, and this process has ended meanwhile
        imports.heavy("examples.compare")


def _conclude(config: DictConfig, sweep: Path, options: Mapping[str, Any]) -> None:
    from examples import compare  # here: each job has these callbacks, and does not need it

    try:
        comparison, written = compare.write([sweep], **options)
    except UsageError:  # such as a baseline that no row is called: runs of hours shall not end without a comparison
        compare.show(*compare.write([sweep]), sweep)
        raise
    compare.show(comparison, written, sweep)
    if (comparison.runs["status"] == "failed").all():
        errors = {" ".join(str(run.result.error).split()) for one in comparison.settings for run in one.runs}
        raise UsageError(f"every run failed ({'; '.join(sorted(errors))})")
    if config.report:
        get_method(config.report)(comparison, sweep)


def _plan(config: DictConfig) -> plans.Plan:
    sweeper = config.hydra.sweeper
    params = [f"{key}={value}" for key, value in (sweeper.params or {}).items()]
    return plans.plan(arguments.grid([*params, *config.hydra.overrides.task]), sweeper.get("n_trials"))
