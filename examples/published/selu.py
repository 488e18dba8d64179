"""Klambauer, Unterthiner, Mayr & Hochreiter 2017, Self-normalizing neural networks: with gain 1, SELU keeps std 1."""

from __future__ import annotations

from pathlib import Path

import lightning as pl

from examples.comparison import Comparison
from examples.published import claims, probing
from examples.published.claims import Claim

SAMPLES = 1000
LAYERS = (8, 32, 64)


def measure(module: pl.LightningModule, data: pl.LightningDataModule) -> dict[str, float]:
    """Return the std of the activations of some layers in the initial network."""
    layers = probing.hidden_layers(module, *probing.sample(module, data, SAMPLES))
    return {_quantity(i): float(layers[i - 1].activation.std()) for i in LAYERS if i <= len(layers)}


def _quantity(layer: int) -> str:
    return f"activation std, layer {layer}"


def _claims() -> list[Claim]:
    """Return one claim per gain and layer; only those of gain 1 are the paper's."""
    ranges = {
        "gain 1": ("1", {8: (0.9, 1.1), 32: (0.9, 1.1), 64: (0.9, 1.1)}),
        "gain 3/4 (torch)": ("-", {8: (0.3, 0.45), 32: (0.18, 0.27), 64: (0.15, 0.23)}),
        "gain sqrt(2) (He)": ("-", {8: (2.8, 3.9), 32: (11, 17), 64: (35, 60)}),
    }
    return [
        Claim(label, _quantity(layer), published, low, high, "{:.2f}", _quantity(layer))
        for label, (published, layers) in ranges.items()
        for layer, (low, high) in layers.items()
    ]


def report(comparison: Comparison, directory: Path) -> None:
    """Print published and measured figures and write them to `directory/published.md`."""
    config = claims.config(comparison)
    about = (
        f"Untouched SELU networks of {config['model.depth']} hidden layers of width {config['model.width']} on "
        f"{SAMPLES} standardized images of Fashion-MNIST, {comparison.runs['seed'].nunique()} seeds. The paper's claim "
        "is that of gain 1; the others show what the gains do that torch and He have for it."
    )
    claims.report("selu", about, claims.measured(comparison, _claims()), directory)
