"""Udacity's "weight initialization" notebook: seven ways to start an MLP on Fashion-MNIST, two epochs each.

Source: udacity/deep-learning-v2-pytorch, folder weight-initialization. Its validation accuracies were taken with
dropout active, because the notebook does not switch to evaluation mode; both are measured here.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from examples.comparison import Comparison
from examples.published import claims
from examples.published.claims import Claim

WITH, WITHOUT = "dropout active", "evaluation mode"
METRIC = {WITH: "val_accuracy_dropout", WITHOUT: "val_accuracy"}

CLAIMS = (
    Claim("zeros", WITH, "9.6 %, 9.7 %", 0.092, 0.108),
    Claim("zeros", WITHOUT, "-", 0.092, 0.108),
    Claim("ones", WITH, "10.1 %, 9.7 %", 0.092, 0.108),
    Claim("ones", WITHOUT, "-", 0.092, 0.108),
    Claim("uniform", WITH, "36.7 %, 33.9 %", 0.29, 0.41),
    Claim("uniform", WITHOUT, "-", 0.37, 0.55),
    Claim("uniform(-0.5, 0.5)", WITH, "75.8 %, 74.9 %", 0.74, 0.775),
    Claim("uniform(-0.5, 0.5)", WITHOUT, "-", 0.79, 0.83),
    Claim("uniform_rule", WITH, "85.2 %, 85.8 %", 0.845, 0.859),
    Claim("uniform_rule", WITHOUT, "-", 0.853, 0.868),
    Claim("normal_rule", WITH, "84.7 %, 85.2 %", 0.845, 0.859),
    Claim("normal_rule", WITHOUT, "-", 0.853, 0.868),
    Claim("torch_default", WITH, "-", 0.845, 0.862),
    Claim("torch_default", WITHOUT, "-", 0.855, 0.87),
)


def measured(comparison: Comparison) -> list[tuple[Claim, float]]:
    """Return the claims about the settings that were run, each with the mean over seeds that was measured."""
    return claims.measured(comparison, (dataclasses.replace(one, metric=METRIC[one.quantity]) for one in CLAIMS))


def report(comparison: Comparison, directory: Path) -> None:
    """Print published and measured accuracies and write them to `directory/published.md`."""
    about = (
        "Validation accuracy of an MLP 784-256-128-10 (ReLU, dropout 0.2, biases 0, Adam 1e-3, batch 100, two epochs) "
        "on Fashion-MNIST, 48,000 images for training and 12,000 for validation. Means over "
        f"{comparison.runs['seed'].nunique()} seeds, {len(comparison.runs)} runs in all. The notebook "
        "measured with dropout active."
    )
    claims.report("udacity", about, measured(comparison), directory)
