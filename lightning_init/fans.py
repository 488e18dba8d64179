"""Fans: how many connections feed one output unit, and how many leave one input unit.

Fans belong to the *module*, not to the tensor: the same `(64, 32, 4, 4)` weight means one thing in a convolution,
another in a transposed one, a third in a grouped one; and one tensor can pack several linear maps (LSTM gates,
attention's q, k and v). `layout` answers for every module of torch.nn; `register` teaches it yours.

A unit-variance input and weights of variance `1 / fan_in` give a unit-variance output; a unit-variance output
gradient and weights of variance `1 / fan_out` give a unit-variance input gradient (Glorot & Bengio 2010, eq. 5 and 6).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from numbers import Integral, Real
from types import NoneType
from typing import Literal, TypeAlias, TypeVar

from torch import Tensor, nn

Mode: TypeAlias = Literal["fan_in", "fan_out", "fan_avg", "fan_geo_avg"]
Shape: TypeAlias = Sequence[int]


@dataclass(frozen=True)
class Fans:
    """Connections per output unit (`fan_in`) and per input unit (`fan_out`); fractional under strides."""

    fan_in: float
    fan_out: float

    def __post_init__(self) -> None:
        for name in ("fan_in", "fan_out"):
            value: object = getattr(self, name)
            if not isinstance(value, Real):
                raise TypeError(f"{name} must be a number, got {value!r}")
            if not 0 <= float(value) < math.inf:
                raise ValueError(f"{name} must be finite and not negative, got {value}")
            object.__setattr__(self, name, int(value) if isinstance(value, Integral) else float(value))

    def by(self, mode: Mode) -> float:
        """Return the fan that `mode` names.

        >>> Fans(fan_in=4, fan_out=16).by("fan_avg"), Fans(4, 16).by("fan_geo_avg")
        (10.0, 8.0)
        """
        if mode == "fan_in":
            return self.fan_in
        if mode == "fan_out":
            return self.fan_out
        if mode == "fan_avg":
            return (self.fan_in + self.fan_out) / 2
        if mode == "fan_geo_avg":
            return math.sqrt(self.fan_in * self.fan_out)
        raise ValueError(f"mode must be fan_in, fan_out, fan_avg or fan_geo_avg, got {mode!r}")


@dataclass(frozen=True)
class Block:
    """`rows` entries along dimension 0 of a parameter that form one linear map of their own."""

    rows: int
    fans: Fans
    name: str = ""


@dataclass(frozen=True)
class Layout:
    """How a weight is stored: its blocks along dimension 0, and whether they are `(in, out, *kernel)`.

    Args:
        blocks: the linear maps packed into the parameter (gates, q/k/v, groups); usually one.
        transposed: each block is stored `(in, out, *kernel)`, as in transposed convolutions and embeddings.
        padding_row: index along dimension 0 that stays zero (`nn.Embedding.padding_idx`).
    """

    blocks: tuple[Block, ...]
    transposed: bool = False
    padding_row: int | None = None

    @property
    def fans(self) -> Fans:
        """The fans of the first block (of every block, unless `uniform` is False)."""
        return self.blocks[0].fans

    @property
    def uniform(self) -> bool:
        """Whether all blocks have the same fans."""
        return all(block.fans == self.fans for block in self.blocks)

    def views(self, weight: Tensor) -> list[Tensor]:
        """Return one view of `weight` per block, each in canonical order `(out, in, *kernel)`."""
        ends = list(accumulate(block.rows for block in self.blocks))
        parts = [weight[end - block.rows : end] for end, block in zip(ends, self.blocks, strict=True)]
        return [part.transpose(0, 1) if self.transposed else part for part in parts]

    def block_shape(self, block: Block, shape: Shape) -> tuple[int, ...]:
        """Return the canonical shape `(out, in, *kernel)` of `block` in a parameter of `shape`."""
        if self.transposed:
            return (shape[1], block.rows, *shape[2:])
        return (block.rows, *shape[1:])


def torch_layout(shape: Shape) -> Layout:
    """Return what `torch.nn.init` would read off a tensor of `shape`: one block, `(out, in, *kernel)`.

    Raises:
        ValueError: if there are fewer than two dimensions.

    >>> torch_layout((64, 32, 3, 3)).fans
    Fans(fan_in=288, fan_out=576)
    """
    if len(shape) < 2:
        raise ValueError(f"fan_in and fan_out need a weight of at least 2 dimensions, got shape {tuple(shape)}")
    field = math.prod(shape[2:])
    return Layout((Block(shape[0], Fans(shape[1] * field, shape[0] * field)),))


# --- the registry ---------------------------------------------------------------------------------------------------

LayoutFunction: TypeAlias = Callable[[nn.Module, str, Shape], "Layout | Fans | None"]
_Function = TypeVar("_Function", bound=Callable[..., "Layout | Fans | None"])
_REGISTRY: dict[type[nn.Module], LayoutFunction] = {}


def register(*module_classes: type[nn.Module]) -> Callable[[_Function], _Function]:
    """Teach `layout` a module class, and with it its subclasses.

    The decorated function takes `(module, parameter_name, shape)` and returns the `Fans` (or, for packed or
    transposed weights, the `Layout`) of a weight, and `None` for what is not a weight. Parameters whose name begins
    or ends with `bias` and for which it returns `None` are treated as biases.

    Raises:
        TypeError: if an argument is no module class.

    >>> class Scaled(nn.Module):
    ...     def __init__(self) -> None:
    ...         super().__init__()
    ...         self.kernel = nn.Parameter(Tensor(3, 5))  # used as x @ kernel
    >>> @register(Scaled)
    ... def scaled(module, name, shape):
    ...     return Fans(fan_in=shape[0], fan_out=shape[1]) if name == "kernel" else None
    >>> layout(Scaled(), "kernel", (3, 5)).fans
    Fans(fan_in=3, fan_out=5)
    """
    for module_class in module_classes:
        if not (isinstance(module_class, type) and issubclass(module_class, nn.Module)):
            raise TypeError(f"register takes module classes, as in @register(MyLinear), got {module_class!r}")

    def decorator(function: _Function) -> _Function:
        for module_class in module_classes:
            _REGISTRY[module_class] = function
        return function

    return decorator


def known(module: nn.Module) -> bool:
    """Return whether `layout` knows the class of `module` or one it inherits from."""
    return any(base in _REGISTRY for base in type(module).__mro__)


def layout(module: nn.Module, parameter_name: str, shape: Shape) -> Layout | None:
    """Return the layout of the weight `parameter_name` of `module`, or None where it is no weight we know.

    Args:
        module: the module that owns the parameter.
        parameter_name: the effective name in the module (`weight`, also where it is parametrized).
        shape: shape of the effective weight.

    Raises:
        TypeError: a registered function returns something else.

    >>> layout(nn.ConvTranspose2d(64, 32, 4, stride=2), "weight", (64, 32, 4, 4)).fans
    Fans(fan_in=256.0, fan_out=512)
    >>> [block.name for block in layout(nn.LSTM(8, 16), "weight_hh_l0", (64, 16)).blocks]
    ['input gate', 'forget gate', 'cell gate', 'output gate']
    """
    for base in type(module).__mro__:
        if base in _REGISTRY:
            found = _REGISTRY[base](module, parameter_name, shape)
            if not isinstance(found, (Fans, Layout, NoneType)):
                raise TypeError(
                    f"the function registered for {base.__name__} must return Fans, a Layout or None, got {found!r} "
                    f"for {parameter_name} {tuple(shape)}"
                )
            return Layout((Block(shape[0], found),)) if isinstance(found, Fans) else found
    return None


# --- torch.nn -------------------------------------------------------------------------------------------------------


@register(nn.Linear)
def _linear(_module: nn.Module, name: str, shape: Shape) -> Layout | None:
    """`weight (out, in)`."""
    return torch_layout(shape) if name == "weight" else None


@register(nn.Bilinear)
def _bilinear(_module: nn.Module, name: str, shape: Shape) -> Layout | None:
    """`weight (out, in1, in2)`: products of two unit-variance inputs; `fan_out` is towards the first input."""
    return torch_layout(shape) if name == "weight" else None


@register(nn.Conv1d, nn.Conv2d, nn.Conv3d)
def _conv(module: nn.Conv2d, name: str, shape: Shape) -> Layout | None:
    """`weight (out, in/groups, *kernel)`: each group is dense; stride ignored in fan_out (He 2015, eq. 14)."""
    if name != "weight":
        return None
    rows, field = shape[0] // module.groups, math.prod(shape[2:])
    return Layout((Block(rows, Fans(shape[1] * field, rows * field)),) * module.groups)


@register(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
def _conv_transpose(module: nn.ConvTranspose2d, name: str, shape: Shape) -> Layout | None:
    """`weight (in, out/groups, *kernel)`: on average `1/prod(stride)` of the kernel's taps reach one output."""
    if name != "weight":
        return None
    rows, field = shape[0] // module.groups, math.prod(shape[2:])
    fans = Fans(rows * field / math.prod(module.stride), shape[1] * field)
    return Layout((Block(rows, fans),) * module.groups, transposed=True)


@register(nn.Embedding, nn.EmbeddingBag)
def _embedding(module: nn.Embedding, name: str, shape: Shape) -> Layout | None:
    """`weight (entries, features)`: a look-up is a product with a one-hot vector, so one connection per output."""
    if name != "weight":
        return None
    return Layout((Block(shape[0], Fans(1, shape[1])),), transposed=True, padding_row=module.padding_idx)


_GATES: dict[str, tuple[str, ...]] = {
    "LSTM": ("input gate", "forget gate", "cell gate", "output gate"),
    "GRU": ("reset gate", "update gate", "new gate"),
    "RNN": ("",),
}


def gates(module: nn.Module) -> tuple[str, ...]:
    """Return the gate names of a recurrent module or cell, in storage order."""
    if isinstance(module, (nn.LSTM, nn.LSTMCell)):
        return _GATES["LSTM"]
    return _GATES["GRU"] if isinstance(module, (nn.GRU, nn.GRUCell)) else _GATES["RNN"]


@register(nn.RNNBase, nn.RNNCellBase)
def _recurrent(module: nn.Module, name: str, shape: Shape) -> Layout | None:
    """`weight_ih (gates*hidden, in)`, `weight_hh (gates*hidden, out)`: a block per gate; `weight_hr (proj, hidden)`."""
    if name.startswith("weight_hr"):
        return torch_layout(shape)
    if not name.startswith(("weight_ih", "weight_hh")):
        return None
    names = gates(module)
    rows = shape[0] // len(names)
    return Layout(tuple(Block(rows, Fans(shape[1], rows), gate) for gate in names))


@register(nn.MultiheadAttention)
def _attention(_module: nn.Module, name: str, shape: Shape) -> Layout | None:
    """`in_proj_weight (3*embed, embed)` packs q, k, v; `bias_k`, `bias_v (1, 1, embed)` are one learned token each."""
    if name == "in_proj_weight":
        rows = shape[0] // 3
        return Layout(tuple(Block(rows, Fans(shape[1], rows), part) for part in ("query", "key", "value")))
    if name in ("q_proj_weight", "k_proj_weight", "v_proj_weight", "bias_k", "bias_v"):
        return torch_layout(shape)
    return None
