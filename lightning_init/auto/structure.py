"""What `Auto` needs to know of a model: what stands in front of every layer, and where its output goes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import fx, nn

from lightning_init.auto.theory import Recurrent
from lightning_init.nonlinearities import Nonlinearity, recognise
from lightning_init.tracing.pointwise import Pointwise, nature, operation, region_behind, signals
from lightning_init.tracing.roles import keeps_forward
from lightning_init.tracing.walk import Walk

_SAME = frozenset(("clone", "contiguous", "flatten", "mean", "reshape", "view"))
"""Functions that leave channels where they are: channel by channel, or spread out into neighbours."""

_RECURRENT: dict[Recurrent, tuple[type[nn.Module], ...]] = {
    "LSTM": (nn.LSTM, nn.LSTMCell),
    "GRU": (nn.GRU, nn.GRUCell),
    "RNN": (nn.RNN, nn.RNNCell),
}
_MAX_POOLS = {nn.MaxPool1d: 1, nn.MaxPool2d: 2, nn.MaxPool3d: 3}
_MAX_POOL = {"max_pool1d": 1, "max_pool2d": 2, "max_pool3d": 3}


@dataclass
class Found:
    """What was found around one layer.

    Args:
        name: path in the model.
        module: the layer.
        order: when it runs.
        front: the nonlinearity in front; None for none.
        gated: whether `front` only weighs a second signal: `nn.GLU`.
        kept: share that dropout in front lets through.
        normalized: whether a normalization stands between `front` and here, or no layer before.
        feeds: layers whose inputs are this layer's outputs, each through `through[name]` alone.
        chain: layers of the longest chain of such links that this one is in.
        branch: whether its output ends a residual branch.
        head: whether its output leaves the model without meeting another layer.
        follower: the nonlinearity behind it; None for none.
        window: how many values the max pooling in front takes the largest of; 1 for none.
        recurrent: the kind of recurrent layer whose output comes in as it is; None for none.
        stacked: of how many layers that one is.
        shortcut: whether the inputs of a `first` layer come through additions.
    """

    name: str
    module: nn.Module
    order: int
    front: Nonlinearity | None = None
    gated: bool = False
    kept: float = 1.0
    normalized: bool = False
    first: bool = False
    feeds: dict[str, Nonlinearity | None] = field(default_factory=dict)
    source: str | None = None
    chain: int = 1
    branch: bool = False
    head: bool = False
    follower: Nonlinearity | None = None
    window: int = 1
    recurrent: Recurrent | None = None
    stacked: int = 1
    shortcut: bool = False


@dataclass(frozen=True)
class Branch:
    """A residual branch: its layers in the order in which they run, and what could switch it off.

    Args:
        layers: paths of the layers on the branch alone.
        end: the layer whose output, dropped out or rescaled at most, is the branch; None if something else ends it.
        switch: full name of the parameter that multiplies the whole branch: a scalar, a normalization's or the end's
            weight; None if there is none.
    """

    layers: tuple[str, ...]
    end: str | None
    switch: str | None


@dataclass(frozen=True)
class Structure:
    """The layers in the order in which they run, the residual branches, and how many additions there are."""

    layers: dict[str, Found]
    additions: int
    branches: tuple[Branch, ...] = ()


def structure(walk: Walk) -> Structure:
    """Return what the data flow says.

    >>> from lightning_init.tracing import dataflow
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2))
    >>> found = structure(dataflow(model)[0])
    >>> [(one.name, one.front, one.chain, one.head) for one in found.layers.values()]
    [('0', None, 3, False), ('2', 'tanh', 3, False), ('4', 'tanh', 3, True)]
    """
    nodes = dict(walk.layers())
    uses = [name for name, _ in walk.layers()]
    found = {name: Found(name, walk.module(name), i) for i, name in enumerate(nodes)}
    for name, node in nodes.items():
        _look_back(walk, node, found[name])
        found[name].window = _window(walk, node)
        for target, function in _links(walk, node):
            if uses.count(name) == uses.count(target) == 1:
                found[name].feeds[target] = function
                found[target].source = name
        found[name].head = _is_last(walk, node)
        found[name].follower = walk.follow(node).nonlinearity
    for one in found.values():
        for target, function in one.feeds.items():
            if isinstance(function, Pointwise):  # sin(30 x), of which looking back sees the sine alone
                found[target].front = function
    _count_chains(found)
    for name, module in walk.modules():
        found.update({one.name: one for one in _in_block(name, module)})
    inside = sum(one.branch for one in found.values() if one.order < 0)
    pairs = [pair for node in walk.graph.nodes if (pair := _residual(walk, node)) is not None]
    branches = tuple(_branch(walk, *pair) for pair in pairs)
    for branch in branches:
        if branch.end in found:
            found[branch.end].branch = True
    return Structure(found, len(branches) + inside, branches)


def _in_block(name: str, module: nn.Module) -> Iterator[Found]:
    """Yield the layers inside one of torch's transformer layers, whose forward is not followed."""
    if not keeps_forward(module, (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)):
        return
    activation: Nonlinearity = module.activation  # type: ignore[assignment]  # a submodule or tensor, to mypy
    activation = recognise(activation) or activation
    for inner, part in module.named_modules():
        if inner in ("linear1", "linear2") or inner.endswith("attn.out_proj"):
            front = activation if inner == "linear2" else None
            yield Found(f"{name}.{inner}", part, -1, front, normalized=front is None, branch=inner != "linear1")


# --- before and behind ----------------------------------------------------------------------------------------------


def _look_back(walk: Walk, node: fx.Node, found: Found) -> None:
    """Note the nearest nonlinearity in front of a layer, and what lies between."""
    for source in walk.back(node):
        nonlinearity = walk.nonlinearity(source)
        if nonlinearity is not None:
            if not found.normalized:
                found.front = nonlinearity
            return
        if source.op == "placeholder":
            found.first = True
            return
        module = walk.module_at(source)
        if walk.is_layer(source) or walk.is_block(source):
            kinds = (kind for kind, classes in _RECURRENT.items() if isinstance(module, classes))
            found.recurrent = None if found.normalized else next(kinds, None)
            found.stacked = int(getattr(module, "num_layers", 1))
            return
        found.shortcut |= operation(source) == "add" and len(list(signals(source))) > 1
        if isinstance(module, nn.GLU) or operation(source) == "glu":
            if not found.normalized:
                found.front, found.gated = "sigmoid", True
            return
        if isinstance(module, nn.modules.dropout._DropoutNd):  # noqa: SLF001 (the common base has no public name)
            found.kept *= 1 - module.p
        found.normalized |= "norm" in (type(module).__name__ if module is not None else operation(source)).lower()


def _window(walk: Walk, node: fx.Node) -> int:
    """Return how many values the max pooling between a layer and the one before takes the largest of."""
    window = 1
    for source in walk.back(node):
        if walk.is_layer(source) or walk.is_block(source):
            break
        module, name = walk.module_at(source), operation(source)
        dimensions = next((n for kind, n in _MAX_POOLS.items() if isinstance(module, kind)), _MAX_POOL.get(name))
        if dimensions is None:
            continue
        given = source.args[1] if len(source.args) > 1 else source.kwargs.get("kernel_size")
        kernel = given if module is None else module.kernel_size
        sizes = (kernel,) * dimensions if isinstance(kernel, int) else kernel
        if isinstance(sizes, (tuple, list)):
            window *= math.prod(one for one in sizes if isinstance(one, int))
    return window


def _links(walk: Walk, node: fx.Node) -> Iterator[tuple[str, Nonlinearity | None]]:
    """Yield the layers that see this layer's output through one nonlinearity, or none, and channel by channel."""
    queue: list[tuple[fx.Node, Nonlinearity | None]] = [(node, None)]
    while queue:
        at, function = queue.pop()
        users = walk.users(at)
        scaled = len(users) == 1 and walk.nonlinearity(users[0]) is None
        region = region_behind(at) if function is None and (len(users) > 1 or scaled) else None
        if region is not None and (len(users) > 1 or nature(region[1]) == "nonlinear"):
            queue.append((region[0], region[1]))
            continue
        if function is None and len(users) != 1:
            continue  # the signal before the nonlinearity is wanted elsewhere
        for user in users:
            names = walk.names_at(user)
            nonlinearity = walk.nonlinearity(user)
            if names:
                yield from ((name, function) for name in names[:1])
            elif nonlinearity is not None and function is None:
                queue.append((user, nonlinearity))
            elif _keeps_channels(walk, user):
                queue.append((user, function))


def _keeps_channels(walk: Walk, node: fx.Node) -> bool:
    module = walk.module_at(node)
    if module is None:
        name = operation(node)
        return name in _SAME or "pool" in name or "dropout" in name
    name = type(module).__name__
    return isinstance(module, (nn.Identity, nn.Flatten)) or "Pool" in name or "Dropout" in name


def _is_last(walk: Walk, node: fx.Node) -> bool:
    """Return whether no layer sees the output of `node`: a tanh or a loss behind the last layer is no layer."""
    queue, seen = walk.users(node), {node}
    while queue:
        user = queue.pop()
        if walk.is_layer(user) or walk.is_block(user):
            return False
        if user not in seen:
            seen.add(user)
            queue += walk.users(user)
    return True


def _count_chains(found: dict[str, Found]) -> None:
    """Set `chain` to the length of the longest chain through each layer."""
    up = dict.fromkeys(found, 1)
    down = dict.fromkeys(found, 1)
    ordered = sorted(found.values(), key=lambda one: one.order)
    for one in ordered:
        for target in one.feeds:
            up[target] = max(up[target], up[one.name] + 1)
    for one in reversed(ordered):
        down[one.name] = max([1, *(down[target] + 1 for target in one.feeds)])
    for name, one in found.items():
        one.chain = up[name] + down[name] - 1


# --- residual branches ----------------------------------------------------------------------------------------------


def _residual(walk: Walk, node: fx.Node) -> tuple[fx.Node, fx.Node] | None:
    """Return (stream, branch) of a sum of two signals of common origin; None if it is no such sum."""
    inputs = list(signals(node)) if operation(node) == "add" else []
    if len(inputs) != 2:
        return None
    above = [walk.above(one) for one in inputs]
    common = above[0] & above[1]
    own = [sum(walk.is_layer(one) or walk.is_block(one) for one in side - common) for side in above]
    if not common or own[0] == own[1]:
        return None
    return (inputs[0], inputs[1]) if own[0] < own[1] else (inputs[1], inputs[0])


def _branch(walk: Walk, stream: fx.Node, branch: fx.Node) -> Branch:
    """Return what is on the branch and not on the stream."""
    own = walk.above(branch) - walk.above(stream)
    layers = dict.fromkeys(name for node in walk.graph.nodes if node in own for name in walk.names_at(node))
    switch = None
    for node in (branch, *walk.back(branch)):
        switch = switch or _multiplier(walk, node)
        if walk.is_layer(node):
            end = walk.names_at(node)[0]
            return Branch(tuple(layers), end, switch or f"{end}.weight")
        if walk.nonlinearity(node) is not None or operation(node) == "add":
            break
    return Branch(tuple(layers), None, switch)


def _multiplier(walk: Walk, node: fx.Node) -> str | None:
    """Return the name of the parameter that a node multiplies the signal by."""
    module = walk.module_at(node)
    if module is not None:
        scales = "Norm" in type(module).__name__ and getattr(module, "weight", None) is not None
        return f"{node.target}.weight" if scales else None
    if operation(node) != "mul":
        return None
    constants = [source for source in node.all_input_nodes if isinstance(source.meta.get("value"), nn.Parameter)]
    return str(constants[0].target) if constants else None
