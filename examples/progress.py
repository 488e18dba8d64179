"""What the user sees while runs go by: one line per run, with the time that a sweep still needs."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from examples import files
from examples.result import FILE, Result

PLAN = "sweep.json"


def plan(sweep: Path, total: int, swept: Sequence[str]) -> None:
    """Note in the directory of a sweep how many runs it has and what is swept; its processes read that."""
    with files.alone(sweep):
        state = {"total": total, "swept": list(swept), "already": finished(sweep), "started": time.time()}
        files.remove_parts(sweep)
        files.write(sweep / PLAN, json.dumps(state))


def swept(sweep: Path) -> list[str]:
    """Return the keys that differ between the runs of a sweep; none if it was planned on a machine out of sight."""
    return _planned(sweep).get("swept", [])


def finished(sweep: Path) -> int:
    """Return how many runs of the sweep have a result."""
    return sum(1 for _ in sweep.glob(f"*/{FILE}"))


def missing(sweep: Path) -> int:
    """Return how many of the runs that were planned have no result; 0 where no plan is in sight."""
    return max(0, _planned(sweep).get("total", 0) - finished(sweep))


def show(result: Result, directory: Path, sweep: Path | None, *, repeated: bool = False) -> None:
    """Print one line about a run that has ended; on a terminal the next good run replaces it."""
    console = Console(highlight=False, soft_wrap=True)
    if sweep is None:
        console.print(_single(result, directory), markup=False)
        return
    line = f"{_count(sweep)}  {directory.name}  {_outcome(result)}{'  (was finished)' if repeated else ''}"
    if console.is_terminal and result.status == "ok":
        console.print(f"\r\x1b[2K{line[: console.width - 1]}", end="", markup=False)
    else:
        console.print(f"{chr(13) if console.is_terminal else ''}{line}", markup=False)


def _planned(sweep: Path) -> dict[str, Any]:
    try:
        return json.loads((sweep / PLAN).read_text())
    except FileNotFoundError:
        return {}


def _count(sweep: Path) -> str:
    state = _planned(sweep)
    if not state:
        return f"[{finished(sweep)}]"
    count, total = finished(sweep), state["total"]
    fresh = max(count - state["already"], 1)
    left = (time.time() - state["started"]) / fresh * max(total - count, 0)
    return f"[{count:>{len(str(total))}}/{total}, {_duration(left)} left]"


def _outcome(result: Result) -> str:
    if result.status == "failed":
        return f"FAILED: {result.error}"
    accuracy = f"{result.last('val_accuracy') or 0:.1%} validation accuracy in {result.seconds or 0:.1f} s"
    return f"DIVERGED, {accuracy}" if result.status == "diverged" else accuracy


def _single(result: Result, directory: Path) -> str:
    alerts = "".join(f"monitor: {alert}\n" for alert in result.alerts.values())
    return (
        f"{result.initializer}: {_outcome(result)}\n{alerts}"
        f"result and event files: {directory}\n"
        f"inspect: tensorboard --logdir {directory}"
    )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
