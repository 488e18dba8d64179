"""A published figure, the range in which ours should fall, and the table that sets them side by side."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from rich.console import Console

from examples import files, runs, statistics
from examples.comparison import Comparison
from examples.runs import Run
from examples.tables import markdown


@dataclass(frozen=True)
class Claim:
    """One figure: `quantity` of `setting` was `published` (as printed); here it should lie in [`low`, `high`].

    `metric` names it among what a run measured or logged. The claim is about the runs that have the values `where`
    (key -> value as text); about those with the initializer `setting` if that is empty.
    """

    setting: str
    quantity: str
    published: str
    low: float
    high: float
    form: str = "{:.1%}"
    metric: str = "val_accuracy"
    where: tuple[tuple[str, str], ...] = ()

    def holds(self, got: float) -> bool:
        """Return whether `got` lies in the range; NaN does not."""
        return self.low <= got <= self.high

    def written(self, value: float) -> str:
        """Return `value` in the form of this claim."""
        return "-" if math.isnan(value) else "never" if math.isinf(value) else self.form.format(value)

    def expected(self) -> str:
        """Return the range in words."""
        if math.isinf(self.high):
            return f"{self.written(self.low)} or more" if math.isfinite(self.low) else "never"
        return f"{self.written(self.low)} to {self.written(self.high)}"

    def is_about(self, run: Run) -> bool:
        """Return whether `run` is one of the runs that this is about."""
        where: Mapping[str, str] = dict(self.where or [("initializer", self.setting)])
        return all(_text(runs.value(run, key)) == value for key, value in where.items())


def at_depth(initializer: str, depth: int) -> tuple[tuple[str, str], ...]:
    """Return the `where` of a claim about networks of `depth` hidden layers that `initializer` started."""
    return (("initializer", initializer), ("model.depth", str(depth)))


def measured(comparison: Comparison, claims: Iterable[Claim]) -> list[tuple[Claim, float]]:
    """Return the claims about runs that were made, each with the mean over these runs."""
    everything = [run for setting in comparison.settings for run in setting.runs]
    about = ((claim, [run for run in everything if claim.is_about(run)]) for claim in claims)
    return [(claim, statistics.mean([_value(run, claim.metric) for run in found])) for claim, found in about if found]


def table(pairs: Iterable[tuple[Claim, float]]) -> pd.DataFrame:
    """Return the rows setting, quantity, published, expected here, got, within range."""
    return pd.DataFrame(
        [
            {
                "setting": claim.setting,
                "quantity": claim.quantity,
                "published": claim.published,
                "expected here": claim.expected(),
                "got": claim.written(got),
                "within range": "yes" if claim.holds(got) else "NO",
            }
            for claim, got in pairs
        ]
    )


def report(name: str, about: str, pairs: Sequence[tuple[Claim, float]], directory: Path, *, found: str = "") -> None:
    """Print the table and write it as the section `name` into `directory/published.md`.

    Args:
        name: of the experiment.
        about: what was trained, and where it was published.
        pairs: claims with what was measured.
        directory: of the sweep.
        found: what is known about figures that do not reproduce.
    """
    text = markdown(table(pairs))
    held = sum(claim.holds(got) for claim, got in pairs)
    verdict = f"{held} of {len(pairs)} figures within the expected range."
    command = f"`python -m examples.train experiment={name}`"
    parts = [f"## {name}", about, text, f"{verdict} Made by {command}.", *([found] if found else [])]
    files.write(directory / "published.md", "\n\n".join(parts) + "\n")
    console = Console(highlight=False, width=max(Console().width, max(map(len, text.splitlines()))))
    console.print(f"\n{name}: published and measured here\n{text}\n{verdict}", markup=False)


def config(comparison: Comparison) -> dict[str, object]:
    """Return the config of one run, for what all of them have in common."""
    return comparison.settings[0].runs[0].result.config


def training(comparison: Comparison) -> str:
    """Return how the networks were trained with SGD, in words."""
    used = config(comparison)
    images = f"{count:,} images" if (count := used["data.train_samples"]) else "all training images"
    seeds = comparison.runs["seed"].nunique()
    return (
        f"SGD {used['optimizer.lr']:g}, momentum {used['optimizer.momentum']:g}, batch "
        f"{used['data.batch_size']}; epochs: {used['trainer.max_epochs']} of {images}; seeds: {seeds}"
    )


def accuracies(comparison: Comparison) -> str:
    """Return the mean and the range of the accuracies that each setting ended with, best first."""
    values = {setting.label: setting.metric("val_accuracy") for setting in reversed(comparison.settings)}
    parts = (f"{name} {statistics.mean(v):.1%} ({min(v):.1%} to {max(v):.1%})" for name, v in values.items())
    return f"Validation accuracies at the end: {', '.join(parts)}."


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _value(run: Run, metric: str) -> float:
    found = run.result.measured.get(metric, run.result.last(metric))
    return math.nan if found is None else found
