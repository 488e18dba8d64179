"""What the numbers that a module returns mean: which dimension counts its units, and between which bounds they lie."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

_MANY = 1 << 16  # units, where parameters do not tell: they are lazy, or flattened into one
_SPATIAL: dict[int, tuple[type[nn.Module], ...]] = {
    1: (nn.Conv1d, nn.ConvTranspose1d, nn.BatchNorm1d, nn.InstanceNorm1d),
    2: (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d, nn.InstanceNorm2d),
    3: (nn.Conv3d, nn.ConvTranspose3d, nn.BatchNorm3d, nn.InstanceNorm3d),
}


def unit_dim(module: nn.Module, output: Tensor) -> int:
    """Return the dimension of the units: the channels of images and of convolutions, otherwise the last.

    >>> import torch
    >>> unit_dim(nn.Conv1d(3, 8, 1), torch.ones(2, 8, 5)), unit_dim(nn.ReLU(), torch.ones(2, 5, 8))
    (-2, -1)
    """
    spatial = next((n for n, kinds in _SPATIAL.items() if isinstance(module, kinds)), None)
    if spatial is None or output.ndim <= spatial:
        spatial = output.ndim - 2 if output.ndim > 3 else 0
    return -1 - spatial


def most_units(model: nn.Module) -> int:
    """Return how many units the outputs in `model` have at most, as far as parameters tell.

    What made an output, or what takes it, has a parameter of that length; not so where a flattened output goes to a
    nonlinearity and nowhere else.

    >>> most_units(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 10)))
    72
    """
    sizes = [_MANY if is_lazy(parameter) else max(parameter.shape, default=1) for parameter in model.parameters()]
    return min(max(sizes, default=1), _MANY)


def bounds_of(module: nn.Module) -> tuple[float, float] | None:
    """Return the bounds of a bounded nonlinearity.

    >>> bounds_of(nn.Tanh()), bounds_of(nn.ReLU())
    ((-1.0, 1.0), None)
    """
    if isinstance(module, nn.Hardtanh):  # and ReLU6
        return float(module.min_val), float(module.max_val)
    if isinstance(module, (nn.Sigmoid, nn.Hardsigmoid, nn.Softmax, nn.Softmax2d, nn.Softmin)):
        return 0.0, 1.0
    return (-1.0, 1.0) if isinstance(module, (nn.Tanh, nn.Softsign)) else None
