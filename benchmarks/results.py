"""Where the figures of a benchmark go: benchmarks/results/NAME.json, with the environment beside them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from benchmarks.environment import environment

FOLDER = Path(__file__).with_name("results")


def write(name: str, figures: Mapping[str, object]) -> None:
    """Write and print the figures."""
    text = json.dumps(_rounded({**figures, "environment": environment()}), indent=1)
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{name}.json").write_text(text + "\n")
    print(text)


def _rounded(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return round(value, 3) if isinstance(value, float) else value
