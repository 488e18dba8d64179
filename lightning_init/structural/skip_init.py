"""SkipInit: every residual branch starts switched off."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from lightning_init import initializers
from lightning_init.auto.structure import Structure
from lightning_init.initializers.base import Initializer
from lightning_init.initializers.constant import Zeros
from lightning_init.structural.base import Special, Structural


@dataclass(frozen=True)
class SkipInit(Structural):
    """Zero what multiplies each residual branch, so that the network begins as its shortcuts alone.

    That is the learnable scalar behind the branch where the architecture has one (SkipInit, ReZero), else the scale of
    the normalization that ends it, else the weight of its last layer; in torch's transformer layers the output
    projections of attentions and `linear2`. All other weights are those of `initializer`.

    De & Smith 2020, Batch normalization biases residual blocks towards the identity function in deep networks, section
    4; Bachlechner et al. 2021, ReZero is all you need, section 3; Goyal et al. 2017, Accurate, large minibatch SGD,
    section 5.1 (the scale of the last normalization).

    Args:
        initializer: of all other weights, a name.

    Raises:
        ValueError: on use: there is no residual branch, or one that nothing can switch off.
    """

    initializer: str = "he_normal"

    def __post_init__(self) -> None:
        initializers.get(self.initializer)

    @property
    def rest(self) -> Initializer:
        """The initializer of all other weights."""
        return initializers.get(self.initializer)

    def special(self, model: nn.Module, found: Structure) -> Special:
        """Return the switches."""
        blocks = [f"{name}.weight" for name, one in found.layers.items() if one.order < 0 and one.branch]
        if not found.branches and not blocks:
            raise ValueError(
                f"{self.label} is for residual networks, and {type(model).__name__} has no residual branch"
            )
        for branch in found.branches:
            if branch.switch is None:
                raise ValueError(
                    f"{self.label}: nothing multiplies the residual branch of {', '.join(branch.layers)}: give it a "
                    "scalar nn.Parameter, or a last layer"
                )
        switches = [*(str(branch.switch) for branch in found.branches), *blocks]
        return {switch: (Zeros(), f"switches off one of {len(switches)} branches") for switch in switches}
