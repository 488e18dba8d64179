"""Fixup: residual networks that train without normalization."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import nn

from lightning_init._evaluation import value_and_slope
from lightning_init.auto.structure import Structure
from lightning_init.initializers.base import Initializer
from lightning_init.initializers.constant import Zeros
from lightning_init.initializers.variance_scaling import KaimingNormal, VarianceScaling
from lightning_init.nonlinearities import Nonlinearity, resolve
from lightning_init.structural.base import Special, Structural, normalizations


@dataclass(frozen=True)
class Fixup(Structural):
    r"""He's weights, times $L^{-1/(2m-2)}$ inside residual branches; zero at the end of each, and in the last layer.

    L is the number of residual branches, m that of the layers on a branch. One SGD step then changes the network's
    function by an amount that does not grow with L.

    Zhang, Dauphin & Ma 2019, Fixup initialization: residual learning without normalization, section 3. Its third rule,
    scalar biases and multipliers in the branches, is about the architecture; where they are, they stay as constructed
    (0 and 1).

    Raises:
        ValueError: on use: the model has normalizations, no residual branch, or one that no layer ends.

    >>> from lightning_init import initialize
    >>> from lightning_init.structural import Fixup
    >>> initialize(nn.Linear(4, 2), Fixup())
    Traceback (most recent call last):
    ...
    ValueError: fixup is for residual networks, and Linear has no residual branch
    """

    @property
    def rest(self) -> Initializer:
        """He's normal law."""
        return KaimingNormal()

    def special(self, model: nn.Module, found: Structure) -> Special:
        """Return what is inside branches, what ends them, and the last layer."""
        kind = type(model).__name__
        norms = normalizations(model)
        if norms:
            raise ValueError(
                f"{self.label} replaces normalization, and {kind} has some ({', '.join(norms[:3])}): take them out "
                "(nn.Identity), or use skip_init, which works with them"
            )
        inside = [name for name, one in found.layers.items() if one.order < 0]
        blocks = [name.removesuffix(".linear1") for name in inside if name.endswith(".linear1")]
        if blocks:
            raise ValueError(
                f"{self.label} is for branches of layers with ReLU, and {kind} has torch's transformer layers "
                f"({blocks[0]}): use t_fixup or skip_init"
            )
        if not found.branches:
            raise ValueError(f"{self.label} is for residual networks, and {kind} has no residual branch")
        open_ended = [branch for branch in found.branches if branch.end is None]
        if open_ended:
            raise ValueError(
                f"{self.label} ends every residual branch with zero weights, and no layer ends the one of "
                f"{', '.join(open_ended[0].layers)}"
            )
        count = len(found.branches)
        special: dict[str, tuple[Initializer, str]] = {
            f"{name}.weight": (Zeros(), "last layer: zero")
            for name, one in found.layers.items()
            if one.head and _passes_zero(one.follower)
        }
        for branch in found.branches:
            m = len(branch.layers)
            for name in branch.layers:
                factor = count ** (-1 / (2 * m - 2)) if m > 1 else 1.0
                law = VarianceScaling(2 * factor**2, "fan_in", "normal")
                special[f"{name}.weight"] = (law, f"one of {m} layers on one of {count} branches (x {factor:.3f})")
            special[f"{branch.end}.weight"] = (Zeros(), f"ends one of {count} residual branches: zero")
        return special


def _passes_zero(nonlinearity: Nonlinearity | None) -> bool:
    """Return whether a gradient passes at 0: behind a ReLU a last layer of zeros would stay dead."""
    if nonlinearity is None:
        return True
    functions = [function for _, function in resolve(nonlinearity).branches]
    return all(value_and_slope(function, np.zeros(1), "")[1].any() for function in functions)
