"""He, Zhang, Ren & Sun 2015, Delving deep into rectifiers: figures 2 and 3.

With 22 layers both initializations converge, He's earlier; with 30, that of Glorot stalls. Theirs were convolutional
networks on ImageNet; "Xavier" is the forward form sqrt(1/n) that they compare with, here `lecun_normal`.
"""

from __future__ import annotations

from pathlib import Path

from examples.comparison import Comparison
from examples.published import claims
from examples.published.claims import Claim

DEPTHS = (22, 30, 40)
FOUND = (
    "With 30 fully connected layers Xavier's form falls behind but does not stall as in the paper's convolutional "
    "network: the stall begins between 30 and 40 layers here, where every run stays at guessing."
)
LAST = "validation accuracy at the end"


def _claim(name: str, depth: int, published: str, low: float, high: float) -> Claim:
    label = {"he_normal": "He", "lecun_normal": "Xavier"}[name]
    return Claim(
        f"{label}, {depth} layers",
        LAST,
        published,
        low,
        high,
        where=(("initializer", name), ("model.depth", str(depth))),
    )


CLAIMS = (
    _claim("he_normal", 22, "converges", 0.7, 0.95),
    _claim("lecun_normal", 22, "converges later", 0.4, 0.85),
    _claim("he_normal", 30, "converges", 0.5, 0.95),
    _claim("lecun_normal", 30, "stalls", 0.09, 0.45),
    _claim("he_normal", 40, "converges", 0.3, 0.95),
    _claim("lecun_normal", 40, "stalls", 0.09, 0.11),
)


def report(comparison: Comparison, directory: Path) -> None:
    """Print published and measured figures and write them to `directory/published.md`."""
    config = comparison.settings[0].runs[0].result.config
    about = (
        f"ReLU networks of {', '.join(map(str, DEPTHS))} fully connected hidden layers of width "
        f"{config['model.width']} on Fashion-MNIST ({claims.training(comparison)}). The paper trained convolutional "
        "networks of 22 and 30 layers on ImageNet."
    )
    claims.report("he2015", about, claims.measured(comparison, CLAIMS), directory, found=FOUND)
