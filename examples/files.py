"""Files that are written whole or not at all, whenever the process is killed, and by one process at a time."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from examples.errors import UsageError


def write(path: Path, content: str | bytes) -> None:
    """Write `content` to `path` such that a reader sees the old file or the new one, never a part."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_bytes(content.encode() if isinstance(content, str) else content)
    part.replace(path)


@contextmanager
def alone(directory: Path) -> Iterator[None]:
    """Make `directory` and keep other processes that ask out of it; the system frees what a killed process held.

    Raises:
        UsageError: nothing can be written there.
    """
    make(directory)
    try:
        held = FileLock(directory / ".lock").acquire()
    except OSError as error:
        raise _unwritable(directory, error) from error
    with held:
        yield


def make(directory: Path) -> None:
    """Make `directory`; raises UsageError if nothing can be written there."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if not os.access(directory, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise _unwritable(directory, error) from error


def _unwritable(directory: Path, error: OSError) -> UsageError:
    reason = error.strerror or error
    return UsageError(f"nothing can be written into {directory} ({reason}): choose another directory")


def remove_parts(directory: Path) -> None:
    """Remove what processes that were killed while writing left in `directory`; call it when none is at work there."""
    for part in directory.glob(".*.part"):
        part.unlink(missing_ok=True)
