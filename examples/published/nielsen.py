"""Nielsen 2015, Neural networks and deep learning: chapter 3 (weights of std 1/sqrt(n)) and 5 (vanishing gradients)."""

from __future__ import annotations

from pathlib import Path

import lightning as pl

from examples.comparison import Comparison
from examples.published import claims, probing
from examples.published.claims import Claim, at_depth

SAMPLES = 1000
RATIO = "gradient norm of the biases, hidden layer to the one before"
EPOCH = "validation accuracy after epoch 1"


def measure(module: pl.LightningModule, data: pl.LightningDataModule) -> dict[str, float]:
    """Return by what the norm of the bias gradient shrinks per hidden layer towards the input (geometric mean)."""
    norms = [
        layer.bias_gradient.norm() for layer in probing.hidden_layers(module, *probing.sample(module, data, SAMPLES))
    ]
    return {RATIO: float((norms[-1] / norms[0]) ** (1 / (len(norms) - 1)))} if len(norms) > 1 else {}


SMALL, LARGE = "N(0, 1/n)", "N(0, 1)"
CLAIMS = (
    Claim(f"{SMALL}, one hidden layer", EPOCH, "92.7 % (MNIST)", 0.80, 0.88, where=at_depth("lecun_normal", 1)),
    Claim(f"{LARGE}, one hidden layer", EPOCH, "86.4 % (MNIST)", 0.60, 0.80, where=at_depth("normal", 1)),
    Claim(f"{SMALL}, three hidden layers", RATIO, "5.0, 4.7", 3.5, 5.5, "{:.1f}", RATIO, at_depth("lecun_normal", 3)),
)


def report(comparison: Comparison, directory: Path) -> None:
    """Print published and measured figures and write them to `directory/published.md`."""
    about = (
        "Sigmoid networks 784-30-10 and 784-30-30-30-10, biases N(0, 1), cross-entropy, SGD 0.1, batch 10. Nielsen "
        "trained on MNIST; this is Fashion-MNIST, with 50,000 images for training and 10,000 for validation, and a "
        "softmax output. What must come out is the order of the two, and the ratio of the gradients, here of 1,000 "
        "images in the untouched network."
    )
    claims.report("nielsen", about, claims.measured(comparison, CLAIMS), directory)
