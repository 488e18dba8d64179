"""Importing torch, Lightning and the rest, which takes most of the time that a run takes to start."""

from __future__ import annotations

import atexit
import gc
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager


def heavy(*names: str) -> None:
    """Import the modules called so while the garbage collector rests, and keep it from ever looking at what is there.

    It would look again and again, during the imports and then while runs train, at what stays until the end.
    """
    if not all(name in sys.modules for name in names):
        with for_good():
            for name in names:
                importlib.import_module(name)


@contextmanager
def for_good() -> Iterator[None]:
    """Let the garbage collector rest, and then never look at what is there."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        atexit.register(_thaw)
        if enabled:
            gc.enable()


def _thaw() -> None:
    """At the end it shall look where torch is, which takes seconds: libraries of torch print what they find left."""
    if "torch" in sys.modules:
        gc.unfreeze()
