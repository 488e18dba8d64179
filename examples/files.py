"""Files that are written whole or not at all, whenever the process is killed."""

from __future__ import annotations

import os
from pathlib import Path


def write(path: Path, content: str | bytes) -> None:
    """Write `content` to `path` such that a reader sees the old file or the new one, never a part."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_bytes(content.encode() if isinstance(content, str) else content)
    part.replace(path)


def remove_parts(directory: Path) -> None:
    """Remove what processes that were killed while writing left in `directory`; call it when none is at work there."""
    for part in directory.glob(".*.part"):
        part.unlink(missing_ok=True)
