"""Elementwise parts of a dataflow graph, as functions of one tensor: `x * sigmoid(x)` written out is SiLU."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor, fx, nn

from lightning_init import nonlinearities
from lightning_init._evaluation import check_elementwise, value_and_slope
from lightning_init.nonlinearities import Nonlinearity

Nature: TypeAlias = Literal["affine", "nonlinear"]

_ALIASES = {
    **{f"{prefix}{name}": name for prefix in "ri" for name in ("add", "sub", "mul", "pow", "matmul")},
    **dict.fromkeys(("truediv", "rtruediv", "itruediv", "true_divide", "divide", "rdiv"), "div"),
    "multiply": "mul",
    "subtract": "sub",
    "rsub": "sub",
    "clip": "clamp",
    "mm": "matmul",
    "log_sigmoid": "logsigmoid",
}
POINTWISE = frozenset(
    (  # noqa: SIM905 - a list of a hundred quotes is harder to read
        "abs add asin asinh atan atan2 bfloat16 ceil clamp clamp_max clamp_min clone contiguous cos cosh div double "
        "eq erf erfc exp exp2 expm1 float floor ge gt half le log log1p log2 logical_not lt maximum minimum mul ne neg "
        "pos positive pow reciprocal round rsqrt sigmoid sign sin sinh sqrt square sub tan tanh to type_as where"
    ).split()
) | {name for name in nonlinearities.names() if name != "dropout"}


def operation(node: fx.Node) -> str:
    """Return the name of the function that a node calls, however it is spelled: `mul` for `*`, `mul_` and `torch.mul`.

    >>> import operator
    >>> graph = fx.Graph()
    >>> operation(graph.call_function(operator.imul, (graph.placeholder("x"), 2)))
    'mul'
    """
    if node.op not in ("call_function", "call_method"):
        return node.op
    if node.target is getattr:
        return str(node.args[1])
    target = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
    if target == "__get__":  # x.T, as a torch function
        target = node.target.__self__.__name__  # type: ignore[union-attr]  # no str: a slot of Tensor
    name = target.strip("_")
    return _ALIASES.get(name, name)


def nature(function: Callable[[Tensor], Tensor]) -> Nature | None:
    """Return what kind of elementwise function it is; None if it is none, or fails.

    >>> nature(lambda x: 3 * x + 1), nature(torch.tanh), nature(lambda x: x.softmax(0))
    ('affine', 'nonlinear', None)
    """
    x = np.linspace(-3.0, 3.0, 61)
    try:
        check_elementwise(function, "")
        y, _ = value_and_slope(function, x, "")
    except (ValueError, TypeError):
        return None
    bend = np.abs(np.diff(y, 2)).max()
    return "nonlinear" if bend > 1e-6 * np.abs(np.diff(y)).max() else "affine"


def signals(node: fx.Node) -> Iterator[fx.Node]:
    """Yield the inputs of a node that depend on data: all but parameters, buffers and what is computed from them."""
    return (source for source in node.all_input_nodes if not is_constant(source))


def is_constant(node: fx.Node) -> bool:
    """Return whether a node depends on parameters, buffers and constants only."""
    if node.op in ("placeholder", "call_module"):
        return False
    if node.op == "get_attr":
        return True
    known = node.meta.get("constant")
    if known is None:
        known = bool(node.all_input_nodes) and all(is_constant(source) for source in node.all_input_nodes)
        node.meta["constant"] = known
    return bool(known)


# --- regions --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Slot:
    """The result of an earlier step; 0 is the input."""

    index: int


@dataclass(frozen=True, repr=False, eq=False)
class Pointwise:
    """A chain of elementwise operations, each `(function, args, kwargs)`, as one function of a tensor."""

    steps: tuple[tuple[Callable[..., Tensor], tuple[object, ...], dict[str, object]], ...]
    __name__: str

    def __call__(self, x: Tensor) -> Tensor:
        """Return the result of the last step."""
        results = [x]
        for function, args, kwargs in self.steps:
            filled = [self._fill(results, value) for value in args]
            results.append(function(*filled, **{key: self._fill(results, value) for key, value in kwargs.items()}))
        return results[-1]

    @staticmethod
    def _fill(results: list[Tensor], value: object) -> object:
        return results[value.index] if isinstance(value, _Slot) else value

    def __repr__(self) -> str:
        return self.__name__


def region_behind(start: fx.Node) -> tuple[fx.Node, Pointwise] | None:
    """Return the elementwise region that all of the signal at `start` enters, by its one exit and as a function.

    None where the signal goes elsewhere too, or where what it meets is not elementwise.
    """
    inside: dict[fx.Node, int] = {start: 0}
    queue = list(start.users)
    while queue:
        node = queue.pop(0)
        if node not in inside and operation(node) in POINTWISE and all(source in inside for source in signals(node)):
            inside[node] = len(inside)
            queue += node.users
    exits = [node for node in inside if not node.users or any(user not in inside for user in node.users)]
    if len(exits) != 1 or exits[0] is start:
        return None
    try:
        return exits[0], _compile([node for node in inside if node is not start], inside)
    except (ValueError, NotImplementedError):
        return None


def single(node: fx.Node, source: fx.Node) -> Pointwise | None:
    """Return one elementwise operation on `source` as a function; None if it is not elementwise."""
    if operation(node) not in POINTWISE or any(other is not source for other in signals(node)):
        return None
    try:
        return _compile([node], {source: 0, node: 1})
    except (ValueError, NotImplementedError):
        return None


def _compile(nodes: Sequence[fx.Node], slots: dict[fx.Node, int]) -> Pointwise:
    shown = {0: "x"}

    def fill(argument: object) -> object:
        if isinstance(argument, fx.Node):
            return _Slot(slots[argument]) if argument in slots else constant(argument)
        return argument.detach().double().cpu() if isinstance(argument, Tensor) else argument

    def show(argument: object) -> str:
        return shown[argument.index] if isinstance(argument, _Slot) else _brief(argument)

    steps = []
    for node in nodes:
        target = getattr(Tensor, node.target) if node.op == "call_method" else node.target  # type: ignore[arg-type]  # a str there
        args = tuple(fill(argument) for argument in node.args)
        kwargs = {key: fill(value) for key, value in node.kwargs.items()}
        steps.append((target, args, kwargs))
        shown[slots[node]] = f"{operation(node)}({', '.join(map(show, args))})"
    return Pointwise(tuple(steps), shown[slots[nodes[-1]]])  # type: ignore[arg-type]  # not a str any more


def _brief(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{value.item():.4g}" if value.numel() == 1 else "tensor"
    return str(value)


def constant(node: fx.Node) -> Tensor:
    """Return the value of a parameter or buffer in the graph, on the CPU in float64.

    Raises:
        ValueError: if the node is computed.
    """
    if "value" not in node.meta:
        raise ValueError(f"{node} is computed")
    return torch.as_tensor(node.meta["value"]).detach().to("cpu", torch.float64)


def named(node: fx.Node) -> Nonlinearity | None:
    """Return the nonlinearity of torch.nn.functional that a node calls, by name if it has no settings."""
    if node.op not in ("call_function", "call_method"):
        return None
    name = operation(node)
    settings = nonlinearities.settings_of(name)
    if settings is None:
        return None
    if name == "prelu":
        return _prelu(node)
    given = dict(zip(settings, node.args[1:], strict=False)) | {k: v for k, v in node.kwargs.items() if k in settings}
    changed = {key: value for key, value in given.items() if value != settings[key] and not isinstance(value, fx.Node)}
    return nonlinearities.module_of(name, changed) if changed else name


def _prelu(node: fx.Node) -> Nonlinearity:
    weight = node.args[1] if len(node.args) > 1 else node.kwargs.get("weight")
    try:
        slopes = constant(weight) if isinstance(weight, fx.Node) else weight
    except (ValueError, NotImplementedError):
        return "prelu"
    if not isinstance(slopes, Tensor):
        return "prelu"
    module = nn.PReLU(slopes.numel(), device="cpu", dtype=torch.float64)
    with torch.no_grad():
        module.weight.copy_(slopes.reshape(-1))
    return module
