"""What a run leaves behind: one small JSON file, written whole or not at all."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from examples import files

FILE = "result.json"
Status: TypeAlias = Literal["ok", "diverged", "failed"]
ALIVE = 1.5
"""Times the accuracy of guessing: a run that never reached that has learned nothing."""


@dataclass
class Result:
    """One finished run.

    Attributes:
        status: `diverged` when a loss was not finite, `failed` when an exception ended the run.
        initializer: label for tables.
        choices: the chosen option of each config group (`model`, `data`, ...).
        overrides: the keys given on the command line or by the sweep.
        config: the resolved config, flattened: `{"model.width": 128, ...}`.
        history: one value per epoch for `epoch`, `step`, `train_loss`, `val_loss`, `val_accuracy`, ...
        layers: the weight layers in depth order.
        profile: `{"first" | "last": {tag prefix: one value per layer}}`, as read from the event file.
        alerts: what the monitor warned of, kind -> the first warning of that kind; earliest first.
        chance: the share of the most frequent class among the validation labels: what guessing reaches.
        measured: what the config's `measure` found in the untouched network.
        events: the event files that the run left, name -> CRC-32 of the content.
        seconds: wall-clock time of training.
        error: why the run failed.
    """

    status: Status
    initializer: str
    seed: int
    choices: dict[str, str]
    overrides: list[str]
    config: dict[str, object]
    history: dict[str, list[float]] = field(default_factory=dict)
    layers: list[str] = field(default_factory=list)
    profile: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    alerts: dict[str, str] = field(default_factory=dict)
    chance: float | None = None
    measured: dict[str, float] = field(default_factory=dict)
    events: dict[str, int] = field(default_factory=dict)
    seconds: float | None = None
    error: str | None = None

    @property
    def fingerprint(self) -> str:
        """Equal for runs of equal config."""
        return fingerprint(self.config)

    def last(self, metric: str) -> float | None:
        """Return the value of `metric` after the last epoch; None if there is none."""
        values = self.history.get(metric)
        return values[-1] if values else None

    @property
    def dead(self) -> bool:
        """Whether training came to its end without ever getting clearly above guessing."""
        accuracies = self.history.get("val_accuracy")
        return self.status == "ok" and bool(accuracies and self.chance) and max(accuracies) < ALIVE * self.chance

    def steps_to(self, accuracy: float) -> float:
        """Return the optimizer steps after which an epoch first ended with `accuracy` or more; inf if none did."""
        pairs = zip(self.history.get("step", []), self.history.get("val_accuracy", []), strict=False)
        return next((step for step, reached in pairs if reached >= accuracy), math.inf)

    def damaged(self, directory: Path) -> list[str]:
        """Return the names of the event files in `directory` that are not as the run left them."""
        return [name for name, crc in self.events.items() if checksums(directory).get(name, crc) != crc]

    def write(self, directory: Path) -> None:
        """Write `result.json` into `directory` atomically: a reader sees the whole file or none."""
        directory.mkdir(parents=True, exist_ok=True)
        files.write(directory / FILE, json.dumps(dataclasses.asdict(self), indent=1))

    @classmethod
    def read(cls, directory: Path) -> Result:
        """Return the result in `directory`; raises FileNotFoundError, or ValueError if the file is not one of ours."""
        try:
            raw = json.loads((directory / FILE).read_text())
            result = cls(**raw)
            _check(result)
        except (ValueError, TypeError, IsADirectoryError) as error:
            raise ValueError(f"{directory / FILE} is not the result of a run: {error}") from error
        return result


def checksums(directory: Path) -> dict[str, int]:
    """Return the CRC-32 of each event file in `directory`, by name."""
    return {file.name: zlib.crc32(file.read_bytes()) for file in sorted(directory.glob("events.out.tfevents.*"))}


def fingerprint(config: dict[str, object]) -> str:
    """Return a short digest of a flattened config."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]


def _check(result: Result) -> None:
    """Raise TypeError or ValueError for JSON that has our keys and other contents."""
    kinds: dict[str, type] = {"initializer": str, "choices": dict, "overrides": list, "config": dict, "history": dict}
    for name, kind in kinds.items():
        if not isinstance(getattr(result, name), kind):
            raise TypeError(f"its {name} is no {kind.__name__}")
    if not isinstance(result.seed, int) and result.status != "failed":  # which may be why it failed
        raise TypeError("its seed is no int")
    if result.status not in get_args(Status):
        raise ValueError(f"its status is {result.status!r}")
