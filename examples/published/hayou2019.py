"""Hayou, Doucet & Rousseau 2019, On the impact of the activation function on deep neural networks training.

Only on the edge of chaos, a curve of (sigma_b, sigma_w), do deep networks train; algorithm 1 there computes it.
"""

from __future__ import annotations

from pathlib import Path

import lightning as pl

from examples.comparison import Comparison
from examples.published import claims
from examples.published.claims import Claim
from lightning_init.theory import edge_of_chaos

SIGMA_W, ACCURACY = "critical sigma_w", "validation accuracy"
SIGMA_B = 0.05
EDGE = {
    ("tanh", 0.05): 1.1225,
    ("tanh", 0.2): 1.3041,
    ("tanh", 0.5): 1.5497,
    ("tanh", 1.0): 1.8556,
    ("elu", 0.1): 1.1761,
    ("elu", 0.2): 1.2293,
    ("relu", 0.0): 1.4142,
}
"""(nonlinearity, sigma_b) -> sigma_w on the edge."""
TRAINED = (
    Claim("edge of chaos", ACCURACY, "trains", 0.5, 0.95),
    Claim("ordered phase", ACCURACY, "does not", 0.09, 0.3),
    Claim("chaotic phase", ACCURACY, "does not", 0.09, 0.3),
    Claim("edge of chaos", "sigma_w of the weights", "1.1225", 1.1125, 1.1325, "{:.4f}", SIGMA_W),
)


def measure(module: pl.LightningModule, data: pl.LightningDataModule) -> dict[str, float]:
    """Return sigma_w as the weights of the hidden layers have it: std times sqrt(fan_in), over all of them."""
    del data
    weights = [p.detach() for name, p in module.model.named_parameters() if p.ndim == 2 and not name.startswith("head")]
    squares = sum(float(weight.square().sum()) * weight.shape[1] for weight in weights)
    return {SIGMA_W: (squares / sum(weight.numel() for weight in weights)) ** 0.5}


def measured(comparison: Comparison) -> list[tuple[Claim, float]]:
    """Return the edge as it is computed here, and how deep networks trained on it, below it and above it."""
    computed = []
    for (nonlinearity, sigma_b), published in EDGE.items():
        label = f"{nonlinearity}, sigma_b = {sigma_b:g}"
        claim = Claim(label, SIGMA_W, f"{published:.4f}", published - 0.0002, published + 0.0002, "{:.4f}")
        computed.append((claim, edge_of_chaos(nonlinearity, sigma_b=sigma_b).sigma_w))
    return computed + claims.measured(comparison, TRAINED)


def report(comparison: Comparison, directory: Path) -> None:
    """Print published and measured figures and write them to `directory/published.md`."""
    config = claims.config(comparison)
    about = (
        f"The edge of chaos as `lightning_init.theory` computes it, and tanh networks of {config['model.depth']} "
        f"hidden layers of width {config['model.width']} on Fashion-MNIST with sigma_b = {SIGMA_B:g}: on the edge, in "
        "the ordered phase (sigma_w = 0.9) and in the chaotic one (sigma_w = 2); "
        f"{claims.training(comparison)}."
    )
    claims.report("hayou2019", about, measured(comparison), directory)
