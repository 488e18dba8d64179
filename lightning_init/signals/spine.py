"""The spine of a model: of which layers an alert may say something, and of which it had better not."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from lightning_init.signals.layers import Layer

_NORMALIZATIONS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


class Spine:
    """What the layers of a model are to each other, in depth order.

    Args:
        layers: of the model, in depth order.

    Attributes:
        mixing: the layers with a weight of at least two dimensions: the others (normalization) are no depth.
        chain: those of them whose output is their own; a container that owns a weight (a position embedding) returns
            what its last layer made, or the loss, although it comes first.
        stretch: name -> how many normalizations come before: each sets the scale of the signal anew.
        bounded: nonlinearity -> the variance of its outputs when all of them sit at its two bounds.
        outputs: the nonlinearities that no mixing layer follows: sure answers are at the bounds, as they should be.

    >>> net = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.LayerNorm(2), nn.Linear(2, 2), nn.Sigmoid())
    >>> from lightning_init.signals.layers import find_layers
    >>> spine = Spine(find_layers(net))
    >>> spine.chain, spine.bounded, spine.outputs, spine.stretch["3"]
    (['0', '3'], {'1': 1.0, '4': 0.25}, {'4'}, 1)
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        mixing = [layer for layer in layers if _mixes(layer)]
        modules = {layer.module for layer in mixing}
        self.mixing = [layer.name for layer in mixing]
        self.chain = [layer.name for layer in mixing if not _contains(layer.module, modules)]
        self.bounded = {layer.name: most for layer in layers if (most := _largest_variance(layer.module)) is not None}
        self.outputs: set[str] = set()
        self.stretch: dict[str, int] = {}
        normalizations = 0
        for layer in layers:
            if layer.module in modules:
                self.outputs.clear()
            elif layer.name in self.bounded:
                self.outputs.add(layer.name)
            normalizations += _normalizes(layer.module)
            self.stretch[layer.name] = normalizations


def _mixes(layer: Layer) -> bool:
    return any(place.kind != "direct" or place.parameter.ndim > 1 for place in layer.weights.values())


def _contains(module: nn.Module, others: set[nn.Module]) -> bool:
    if isinstance(module, nn.MultiheadAttention):
        return False  # it uses the weight of its `out_proj` itself
    return any(one in others for one in module.modules() if one is not module)


def _normalizes(module: nn.Module) -> bool:
    """Return whether it is a normalization, also one of the user's own (`LlamaRMSNorm`)."""
    return isinstance(module, _NORMALIZATIONS) or "norm" in type(module).__name__.lower()


def _largest_variance(module: nn.Module) -> float | None:
    if isinstance(module, (nn.Tanh, nn.Softsign)):
        return 1.0
    if isinstance(module, (nn.Sigmoid, nn.Hardsigmoid)):
        return 0.25
    return None
