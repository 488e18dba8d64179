"""Importing torch, Lightning and the rest, which takes most of the time that a run takes to start."""

from __future__ import annotations

import atexit
import gc
import importlib
import sys


def heavy(*names: str) -> None:
    """Import the modules called so while the garbage collector rests, and keep it from ever looking at what is there.

    It would look again and again, during the imports and then while runs train, at what stays until the end.
    """
    if all(name in sys.modules for name in names):
        return
    enabled = gc.isenabled()
    gc.disable()
    try:
        for name in names:
            importlib.import_module(name)
    finally:
        gc.freeze()
        atexit.register(gc.unfreeze)  # at the end it shall look: libraries print what they find left over
        if enabled:
            gc.enable()
