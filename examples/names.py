"""Names of run directories: readable, and different for different overrides, so that concurrent runs never collide."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf

from examples import plans

LONGEST = 150


def run_name(overrides: Sequence[str], swept: Sequence[str] = ()) -> str:
    """Return a directory name made of the overrides whose keys are `swept` (of all, if none is).

    A digest is added where the name had to be shortened or changed.

    >>> run_name(["initializer=zeros", "model.width=8", "seed=0"], swept=["initializer", "seed"])
    'initializer=zeros,seed=0'
    """
    chosen = [override for override in overrides if override.partition("=")[0] in swept] or list(overrides)
    name = ",".join(chosen)
    safe = re.sub(r"[^\w.=,+-]", "-", name)[:LONGEST]
    return safe if safe == name else f"{safe},{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _resolve(overrides: Sequence[str], sweep: str) -> str:
    return run_name(list(overrides), plans.swept(Path(sweep), overrides))


OmegaConf.register_new_resolver("run_name", _resolve, replace=True)
