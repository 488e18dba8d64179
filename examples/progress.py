"""What the user sees while runs go by: one line per run, with the time that a sweep still needs."""

from __future__ import annotations

import shlex
import shutil
import sys
import threading
from pathlib import Path

from rich.console import Console

from examples import plans
from examples.result import Result


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


def follow(sweep: Path, ended: threading.Event) -> None:
    """Print how far a sweep has come, whenever that changes, until it `ended`: its jobs write into files of theirs."""
    console, before = Console(highlight=False, soft_wrap=True), 0
    while not ended.wait(2.0):
        if (finished := plans.progress(sweep).finished) > before:
            line = f"\r\x1b[2K{_count(sweep)}" if console.is_terminal else _count(sweep)
            console.print(line, end="" if console.is_terminal else "\n", markup=False)
            before = finished


def _count(sweep: Path) -> str:
    done = plans.progress(sweep)
    if done.total is None or done.left is None:
        return f"[{done.finished}]"
    return f"[{done.finished:>{len(str(done.total))}}/{done.total}, {_duration(done.left)} left]"


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
        f"{inspection(directory)}"
    )


def inspection(directory: Path) -> str:
    """Return the line that says how to look at `directory`, in words that a shell takes.

    >>> inspection(Path("my runs")).endswith("tensorboard --logdir 'my runs'")
    True
    """
    beside = Path(sys.executable).with_name("tensorboard")  # not found by name where the environment is not activated
    program = "tensorboard" if shutil.which("tensorboard") or not beside.exists() else _short(beside)
    return f"inspect: {shlex.join([str(program), '--logdir', str(directory)])}"


def _short(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
