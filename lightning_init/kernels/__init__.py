"""What Numba compiles (`pip install lightning-init[fast]`); everything works without it, more slowly.

Nothing here may be imported but by `load`.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import warnings
from functools import cache
from types import ModuleType


@cache
def load(name: str) -> ModuleType | None:
    """Return a module of this package, or None without a Numba that works here.

    The first call of a process compiles it, or loads what an earlier process has compiled from Numba's cache.
    """
    if importlib.util.find_spec("numba") is None:
        return None
    logging.getLogger("numba").setLevel(logging.WARNING)  # a root logger of level DEBUG would print all byte code
    try:
        return importlib.import_module(f"{__name__}.{name}")
    except Exception as error:  # noqa: BLE001 (of many kinds: a NumPy newer than Numba, a library of LLVM that is missing)
        warnings.warn(f"Numba cannot be used, and lightning_init does without; this costs time: {error}", stacklevel=2)
        return None
