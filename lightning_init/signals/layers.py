"""Which layers a model has, what they are called, and which of their parameters are weights.

A *layer* is a module that owns parameters, or a nonlinearity module. Its name is its path in the model without the
prefixes that wrappers add. A parameter that several layers share belongs to the first of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.modules import activation
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import ParametrizationList

from lightning_init._names import clean
from lightning_init._suggest import closest
from lightning_init.fans import layout
from lightning_init.placement import Place, places

_NONLINEARITIES = tuple(getattr(activation, name) for name in activation.__all__ if name != "MultiheadAttention")


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer: its name, its module, and what it owns.

    Args:
        name: path in the model, wrappers stripped; the model's class name for the model itself.
        module: the module whose output is the layer's activation.
        weights: name in the logs -> where the effective (parametrized) weight is read.
        parameters: the stored parameters that the layer owns and that no earlier layer owns.
        parent: the module that holds this one, to explain why a layer is never called.
    """

    name: str
    module: nn.Module
    weights: dict[str, Place]
    parameters: tuple[nn.Parameter, ...]
    parent: nn.Module | None = None


def check_globs(layers: object) -> None:
    """Raise TypeError unless `layers` can be the `globs` of `find_layers`."""
    globs = [layers] if isinstance(layers, str) else layers
    if globs is not None and not (isinstance(globs, Sequence) and all(isinstance(one, str) for one in globs)):
        raise TypeError(f'layers must be globs over layer names such as "backbone.*", or None for all, got {layers!r}')


def find_layers(model: nn.Module, globs: str | Sequence[str] | None = None) -> list[Layer]:
    """Return the layers of `model` in the order of `named_modules`, which is depth order in most models.

    Args:
        model: the model; nothing in it is changed.
        globs: keep only the layers whose name matches one of these patterns (`*`, `?`, `[...]`); None keeps all.

    Raises:
        ValueError: if a pattern matches no layer.

    >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.LSTM(3, 4))
    >>> [layer.name for layer in find_layers(model)]
    ['0', '1', '2']
    >>> list(find_layers(model, "2")[0].weights)
    ['2.weight_ih_l0', '2.weight_hh_l0']
    """
    layers = _all_layers(model)
    if globs is None:
        return layers
    names = [layer.name for layer in layers]
    patterns = [globs] if isinstance(globs, str) else list(globs)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            near = ", ".join(repr(name) for name in closest(pattern, names))
            raise ValueError(
                f"layers: {pattern!r} matches none of the {len(names)} layers of {type(model).__name__};"
                f" the closest names are {near}"
            )
    return [layer for layer in layers if any(fnmatchcase(layer.name, pattern) for pattern in patterns)]


def first_tensor(output: object) -> Tensor | None:
    """Return the first floating or complex tensor in nested tuples, lists, dicts or dataclasses; None without one.

    It is the output proper of the modules that return several: `nn.LSTM`, `nn.MultiheadAttention`, model outputs. Of a
    tensor that is divided among ranks, it is the part that is here.

    >>> import torch
    >>> first_tensor((torch.arange(2), {"logits": torch.ones(3)}))
    tensor([1., 1., 1.])
    """
    if isinstance(output, DTensor):
        with torch.no_grad():
            return first_tensor(output.to_local())
    if isinstance(output, Tensor):
        return output if output.is_floating_point() or output.is_complex() else None
    parts: Sequence[object] = ()
    if isinstance(output, dict):
        parts = list(output.values())
    elif isinstance(output, (tuple, list)):
        parts = output
    elif hasattr(output, "__dataclass_fields__"):
        parts = [getattr(output, name) for name in output.__dataclass_fields__]
    return next((found for part in parts if (found := first_tensor(part)) is not None), None)


def _all_layers(model: nn.Module) -> list[Layer]:
    owned: dict[nn.Module, list[Place]] = {}
    for place in places(model):
        owned.setdefault(place.module, []).append(place)
    layers: list[Layer] = []
    seen: dict[str, nn.Module] = {}
    claimed: set[nn.Parameter] = set()
    for path, module in model.named_modules():
        seen[path] = module
        if isinstance(module, ParametrizationList):
            continue
        mine = owned.get(module, [])
        if mine or _owns_any(module) or isinstance(module, _NONLINEARITIES):
            stored = dict.fromkeys(parameter for place in mine for parameter in place.stored.values())
            parameters = tuple(parameter for parameter in stored if parameter not in claimed)
            claimed.update(parameters)
            parent = seen.get(path.rpartition(".")[0]) if path else None
            name = clean(path, model)
            weights = _weights(name, mine)
            layers.append(Layer(name or type(model).__name__, module, weights, parameters, parent))
    return layers


def _owns_any(module: nn.Module) -> bool:
    return next(module.parameters(recurse=False), None) is not None


def _weights(path: str, mine: list[Place]) -> dict[str, Place]:
    weights = [place for place in mine if not _is_bias(place)]
    if path and [place.leaf for place in weights] == ["weight"]:
        return {path: weights[0]}
    return {place.name: place for place in weights}


def _is_bias(place: Place) -> bool:
    """Return whether it is called a bias and is none of the weights that are (attention's `bias_k`)."""
    if not (place.leaf.startswith("bias") or place.leaf.endswith("bias")):
        return False
    return is_lazy(place.parameter) or layout(place.module, place.leaf, place.shape) is None
