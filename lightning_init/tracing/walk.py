"""From a layer's node in the graph to the nonlinearity that its output meets first."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from torch import fx, nn
from torch.nn.utils.parametrize import ParametrizationList

from lightning_init.nonlinearities import Nonlinearity, mixes
from lightning_init.tracing.pointwise import (
    is_constant,
    named,
    nature,
    operation,
    region_behind,
    signals,
    single,
)
from lightning_init.tracing.roles import Role

_SLACK = 2
"""A nonlinearity this many nodes beyond the nearest layer still counts: a shortcut may leave the sum before it."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_LINEAR = _words(
    "addmm baddbmm bilinear bmm conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d einsum "
    "embedding embedding_bag linear matmul tensordot"
)
_MIXING = _words("matmul bmm baddbmm einsum tensordot outer dot cross_entropy nll_loss")
_ATTENTION = "attention"
_ASIDE = _words(
    "assert assert_async device dim dtype is_complex is_contiguous is_cuda is_floating_point item layout len names "
    "ndim numel print requires_grad shape size stride tolist type"
)
_DECISIONS = _words("all allclose any eq equal ge gt isfinite isinf isnan le lt ne not or and xor logical_not")
_LINKS = _words("exp exp2 log log2 log10 log1p")
"""From a head's output to a positive number or back; no activation of a hidden layer."""
_PASSED = _words(
    "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d "
    "adaptive_max_pool3d add alpha_dropout amax amin avg_pool1d avg_pool2d avg_pool3d batch_norm bfloat16 "
    "broadcast_to cat channel_shuffle chunk clone concat concatenate contiguous cpu cuda data detach double drop_path "
    "dropout dropout1d dropout2d dropout3d dstack expand expand_as feature_alpha_dropout feature_dropout flatten flip "
    "float fold gather getitem grid_sample group_norm H half hstack index_select instance_norm interpolate layer_norm "
    "local_response_norm lp_pool1d lp_pool2d lp_pool3d masked_fill max max_pool1d max_pool2d max_pool3d mean median "
    "mH min moveaxis movedim mT narrow neg normalize pad permute pixel_shuffle pixel_unshuffle pos positive rearrange "
    "reduce repeat repeat_interleave requires_grad reshape reshape_as rms_norm roll rot90 select split squeeze stack "
    "stochastic_depth sub sum swapaxes swapdims t T tensor_split tile to transpose tril triu type_as unbind unflatten "
    "unfold unsqueeze upsample view view_as vstack where"
)
_PASSED_WORDS = _words("pad pool norm dropout resize reshape")
"""In the name of a function of the user's."""


@dataclass(frozen=True)
class Follower:
    """What a layer's output meets first.

    Args:
        nonlinearity: a name, module or callable for `gains.gain`; None where none follows, or where it is not known.
        reason: how that is known, or why it is not.
        certain: whether it was read off the data flow; False for guesses and for what is not known.
    """

    nonlinearity: Nonlinearity | None
    reason: str
    certain: bool = True


def preference(follower: Follower) -> int:
    """Return a rank: nonlinearities first, then what is certain."""
    return 0 if follower.nonlinearity is not None else 2 - follower.certain


class Walk:
    """Follows signals through one graph.

    Args:
        graph: the data flow of `model`.
        model: owner of the parameters and modules that the graph names.
        roles: what each module is.
        end: the answer where a signal leaves the graph.
        name: of `model`, where it is a part; it begins every name that is given out.
    """

    def __init__(
        self, graph: fx.Graph, model: nn.Module, roles: Mapping[nn.Module, Role], end: Follower, name: str = ""
    ) -> None:
        self._graph = graph
        _erase_decisions(graph)
        self._positions = {node: position for position, node in enumerate(graph.nodes)}
        self._name = name
        self._modules = dict(model.named_modules())
        self._roles = roles
        self._end = end

    def layers(self) -> Iterator[tuple[str, fx.Node]]:
        """Yield, for every use of a layer, the name of the module that owns the weight and the node that applies it."""
        for node in self._graph.nodes:
            for name in self._layers_at(node):
                yield self._full(name), node

    def hidden(self) -> Iterator[tuple[str, Follower]]:
        """Yield the layers whose weights go into a function that is one node: what follows is inside it."""
        for node in self._graph.nodes:
            name = operation(node)
            if node.op != "call_function" or name in _LINEAR or is_constant(node):
                continue
            for source in node.all_input_nodes:
                for owner in self._owners(source) if is_constant(source) else ():
                    module = self._modules[owner]
                    if module in self._roles and self._roles[module].kind == "layer":
                        yield self._full(owner), Follower(None, f"used inside {name}", certain=_ATTENTION in name)

    @property
    def graph(self) -> fx.Graph:
        """The data flow."""
        return self._graph

    def module(self, name: str) -> nn.Module:
        """Return the module that `layers` calls `name`."""
        found: nn.Module = self._modules[name.removeprefix(f"{self._name}.") if self._name else name]
        return found

    def modules(self) -> Iterator[tuple[str, nn.Module]]:
        """Yield every module, by the name that `layers` would call it."""
        for name, module in self._modules.items():
            yield self._full(name), module

    def module_at(self, node: fx.Node) -> nn.Module | None:
        """Return the module that a node applies; None for a function."""
        return self._modules[str(node.target)] if node.op == "call_module" else None

    def names_at(self, node: fx.Node) -> list[str]:
        """Return the names of the layers that a node applies, as `layers` yields them."""
        return [self._full(name) for name in self._layers_at(node)]

    def is_layer(self, node: fx.Node) -> bool:
        """Return whether a node applies a layer."""
        return bool(self._layers_at(node))

    def is_block(self, node: fx.Node) -> bool:
        """Return whether a node is one of torch's transformers."""
        role = self._role(node)
        return role is not None and role.kind == "block"

    def nonlinearity(self, node: fx.Node) -> Nonlinearity | None:
        """Return the nonlinearity that a node applies; None if it is none."""
        return self._nonlinearity(node)

    def users(self, node: fx.Node) -> list[fx.Node]:
        """Return what takes the signal at `node`, without what only asks for its shape."""
        return [user for user in node.users if operation(user) not in _ASIDE]

    def back(self, node: fx.Node) -> Iterator[fx.Node]:
        """Yield what the signal in front of `node` came through, nearest first, along the first input of each."""
        while sources := list(signals(node)):
            node = sources[0]
            yield node

    def above(self, node: fx.Node) -> set[fx.Node]:
        """Return `node` and everything that it is computed from, parameters and the like left out."""
        queue, seen = [node], {node}
        while queue:
            fresh = [source for source in signals(queue.pop()) if source not in seen]
            seen.update(fresh)
            queue += fresh
        return seen

    def follow(self, layer: fx.Node) -> Follower:
        """Return what the output of `layer` meets first: a nonlinearity, unless a layer is clearly nearer."""
        queue = deque([(layer, 0)])
        seen = {layer}
        answers: list[Follower] = []
        last = None
        while queue:
            node, distance = queue.popleft()
            if last is not None and distance > last:
                break
            found, further = self._behind(node, layer)
            answers += found
            if any(answer.nonlinearity is not None for answer in found):
                break
            if found and last is None:
                last = distance + _SLACK
            queue += [(user, distance + 1) for user in further if user not in seen]
            seen.update(further)
        return min(answers, key=preference) if answers else self._end

    def _behind(self, node: fx.Node, layer: fx.Node) -> tuple[list[Follower], list[fx.Node]]:
        """Return the answers right behind `node`, and the nodes from which to go on.

        Args:
            node: where the signal is.
            layer: where it comes from.
        """
        users = [user for user in node.users if operation(user) not in _ASIDE]
        gates = [user for user in users if self._nonlinearity(user) is not None]
        link = len(users) == 1 and operation(users[0]) in _LINKS
        if users and (len(users) > 1 or not gates) and not link:
            region = region_behind(node)
            kind = nature(region[1]) if region else None
            if region and kind == "nonlinear":
                return [Follower(region[1], f"followed by {region[1]}")], []
            if region and kind == "affine":
                return [], [region[0]]
        products = [user for user in users if operation(user) in ("mul", "div") and self._others(user, node)]
        own = [user for user in products if all(self._comes_from(layer, other) for other in self._others(user, node))]
        if own and not gates:  # x / |x|, x * gate(x): the way on is the product, not what x is multiplied by
            return [], own
        answers = [(user, self._answer(user, node)) for user in users if user not in own]
        return [answer for _, answer in answers if answer], [*own, *(user for user, answer in answers if not answer)]

    def _answer(self, user: fx.Node, node: fx.Node) -> Follower | None:
        """Return what it means that `user` takes the signal at `node`; None if the signal passes."""
        name = operation(user)
        if user.op == "output":
            return self._end
        nonlinearity = self._nonlinearity(user)
        if nonlinearity is not None:
            return Follower(nonlinearity, f"followed by {self._shown(user)}")
        layers = self._layers_at(user)
        if layers:
            return Follower(None, f"followed by the layer {' and '.join(f'`{self._full(layer)}`' for layer in layers)}")
        if user.op == "call_module":
            return self._answer_of_module(user)
        if name in _LINKS:
            return Follower(None, f"enters {name}")
        if name in _MIXING or _ATTENTION in name or mixes(name):
            return Follower(None, f"enters {name}, which is no function of one number")
        if name in ("mul", "div"):
            return Follower(None, "multiplied by another signal") if self._others(user, node) else None
        if name in _PASSED or not _PASSED_WORDS.isdisjoint(name.split("_")) or isinstance(user.target, type):
            return None  # a class: the named tuple of several outputs
        function = single(user, node)
        kind = nature(function) if function else None
        if kind == "nonlinear":
            return Follower(function, f"followed by {function}")
        return None if kind == "affine" else Follower(None, f"enters {name}, which is not understood", certain=False)

    def _answer_of_module(self, user: fx.Node) -> Follower | None:
        role = self._role(user)
        if role is not None and role.kind == "through":
            return None
        if role is not None and role.kind == "mixing":
            return Follower(None, f"enters {self._shown(user)}, which is no function of one number")
        if role is not None and role.kind == "block":
            return Follower(None, f"followed by the block {self._shown(user)}")
        return Follower(None, f"enters {self._shown(user)}, which cannot be followed", certain=False)

    def _others(self, user: fx.Node, node: fx.Node) -> list[fx.Node]:
        return [source for source in signals(user) if source is not node]

    def _comes_from(self, layer: fx.Node, node: fx.Node) -> bool:
        """Return whether `node` is computed from the output of `layer`."""
        queue, seen = [node], {node}
        while queue:
            current = queue.pop()
            if current is layer:
                return True
            sources = {n for n in current.all_input_nodes if self._positions[n] >= self._positions[layer]} - seen
            queue += sources
            seen |= sources
        return False

    def _role(self, node: fx.Node) -> Role | None:
        return self._roles.get(self._modules[str(node.target)]) if node.op == "call_module" else None

    def _nonlinearity(self, node: fx.Node) -> Nonlinearity | None:
        role = self._role(node)
        return role.nonlinearity if role else named(node)

    def _layers_at(self, node: fx.Node) -> list[str]:
        role = self._role(node)
        if role is not None and role.kind == "layer":
            attention = isinstance(self._modules[str(node.target)], nn.MultiheadAttention)
            return [f"{node.target}.out_proj" if attention else str(node.target)]
        if operation(node) not in _LINEAR:
            return []
        owners = [owner for source in node.all_input_nodes if is_constant(source) for owner in self._owners(source)]
        return list(dict.fromkeys(owners))

    def _owners(self, node: fx.Node) -> Iterator[str]:
        """Yield the names of the modules that own the matrices from which a constant is computed."""
        if node.op == "get_attr":
            weight = node.meta["value"]
            if isinstance(weight, nn.Parameter) and weight.ndim > 1:
                owner = str(node.target).rpartition(".")[0]
                if isinstance(self._modules.get(owner), ParametrizationList):  # fc.parametrizations.weight
                    owner = ".".join(owner.split(".")[:-2])
                yield owner
        for source in node.all_input_nodes:
            yield from self._owners(source)

    def _shown(self, node: fx.Node) -> str:
        if node.op == "call_module":
            return f"{type(self._modules[str(node.target)]).__name__} `{self._full(str(node.target))}`"
        name = operation(node)
        return f"F.{name}" if hasattr(F, name) else name

    def _full(self, name: str) -> str:
        return ".".join(part for part in (self._name, name) if part)


def _erase_decisions(graph: fx.Graph) -> None:
    """Take out comparisons that nothing is computed from, and what only they need: `if x.sum() > 0` follows nothing."""
    for node in reversed(list(graph.nodes)):
        decides = node.meta.get("decides", False) or operation(node) in _DECISIONS
        if decides and not node.users and node.op in ("call_function", "call_method"):
            for source in node.all_input_nodes:
                source.meta["decides"] = True
            graph.erase_node(node)
