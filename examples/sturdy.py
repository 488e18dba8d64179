"""A sweep of joblib's that goes on when a run ends its process, as one does that the system kills for memory."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from joblib import Parallel
from joblib.externals.loky.process_executor import TerminatedWorkerError

from examples import composed, plans
from examples.result import FILE as RESULT
from examples.runs import unfinished

Task: TypeAlias = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]
"""A call of `execute_job(number, overrides, context, config, task, state)` of Hydra's joblib launcher."""


class SturdyParallel(Parallel):
    """In place of `joblib.Parallel` in Hydra's joblib launcher, where the end of one process is the end of all runs.

    The runs that were under way are made again, each alone; one that ends its process again is recorded as failed. Then
    the others go on.
    """

    def __call__(self, tasks: Iterable[Task]) -> list[Any]:
        """Return what each of `tasks` returns."""
        every, done = list(tasks), dict[int, Any]()
        while True:
            rest = [number for number in range(len(every)) if number not in done]
            try:
                done |= dict(zip(rest, self._all([every[number] for number in rest]), strict=True))
            except TerminatedWorkerError as error:
                begun = [number for number in rest if _is_under_way(every[number])]
                if not begun:
                    raise SystemExit(f"error: the processes of the sweep end before a run begins: {error}") from None
                print(f"note: {_death(error)}; the {len(begun)} runs that were under way are made again", flush=True)
                for number in begun:
                    done[number] = self._alone(every[number])
            else:
                return [done[number] for number in range(len(every))]

    def _alone(self, task: Task) -> object:
        try:
            (returned,) = self._all([task])
        except TerminatedWorkerError as error:
            why = f"{_death(error)}, when it was alone too: had it enough memory?"
            call, (number, overrides, context, config, function, state), options = task
            killed = (call, (number, overrides, context, config, partial(function, killed=why), state), options)
            (returned,) = self._all([killed])
        return returned

    def _all(self, tasks: Iterable[Task]) -> list[Any]:
        return super().__call__([(call, composed.lighten(*arguments), options) for call, arguments, options in tasks])


def _death(error: TerminatedWorkerError) -> str:
    """Return how a process ended, as joblib knows it: with the name of the signal."""
    codes = re.search(r"{(.+)}", str(error))
    return f"a process of the sweep ended{f' by {codes[1]}' if codes else ''}"


def _is_under_way(task: Task) -> bool:
    """Return whether the run of `task` was begun, and neither finished nor recorded as failed.

    One that records that its loader died is a victim too: joblib kills the children of its processes before these.
    """
    _, (_, overrides, _, config, *_), _ = task
    sweep = Path(config.hydra.sweep.dir)
    victims = [file.parent for file in sweep.rglob(RESULT) if "DataLoader worker" in file.read_text()]
    begun = [plans.overrides(directory) or [] for directory in (*unfinished(sweep), *victims)]
    return any(set(found) <= set(overrides) and found for found in begun)
