"""Schoenholz, Gilmer, Ganguli & Sohl-Dickstein 2017, Deep information propagation: section 5 and figure 5.

A random tanh network can be trained up to about 6 xi_c layers, where xi_c is the depth over which the correlation of
two inputs decays, predicted by mean field theory alone.
"""

from __future__ import annotations

import math
from pathlib import Path

from examples import statistics
from examples.comparison import Comparison
from examples.published import claims
from examples.published.claims import Claim
from lightning_init.theory import depth_scales

PUBLISHED = {1.0: 3.63, 1.5: 15.8, 2.5: 11.8, 4.0: 6.98}
"""sigma_w^2 -> xi_c at sigma_b^2 = 0.05."""
SIGMA_B = math.sqrt(0.05)
TRAINED = 0.5
"""Accuracy from which a network counts as trained; guessing gives 0.1."""
SCALE, DEPTH = "depth scale xi_c", "deepest network trained, in units of 6 xi_c"


def measured(comparison: Comparison) -> list[tuple[Claim, float]]:
    """Return the claims about the sigma_w that were run, with the predicted scale and the deepest network trained."""
    pairs = []
    for square, published in PUBLISHED.items():
        depths = {}
        for setting in comparison.settings:
            config = setting.runs[0].result.config
            if config.get("initializer.sigma_w") is not None and math.isclose(
                config["initializer.sigma_w"] ** 2, square, rel_tol=1e-3
            ):
                depths[config["model.depth"]] = statistics.mean(setting.metric("val_accuracy"))
        if not depths:
            continue
        scale = depth_scales("tanh", sigma_w=math.sqrt(square), sigma_b=SIGMA_B).xi_c
        deepest = max((depth for depth, accuracy in depths.items() if accuracy >= TRAINED), default=0)
        label = f"sigma_w^2 = {square:g}"
        exact = Claim(label, SCALE, f"{published:g}", 0.99 * published, 1.01 * published, "{:.2f}")
        reach = Claim(label, DEPTH, "about 1", 0.3, 1.5, "{:.2f}")
        pairs += [(exact, scale), (reach, deepest / (6 * scale))]
    return pairs


def report(comparison: Comparison, directory: Path) -> None:
    """Print published and measured figures and write them to `directory/published.md`."""
    config = claims.config(comparison)
    depths = sorted({run.result.config["model.depth"] for s in comparison.settings for run in s.runs})
    about = (
        f"Fully connected tanh networks of width {config['model.width']} on Fashion-MNIST, sigma_b^2 = 0.05, depths "
        f"{', '.join(map(str, depths))} ({claims.training(comparison)}). A network counts as trained from "
        f"{TRAINED:.0%} validation accuracy. Mean field theory predicts xi_c without training."
    )
    claims.report("schoenholz2017", about, measured(comparison), directory)
