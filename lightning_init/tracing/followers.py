"""`nonlinearity="auto"`: which nonlinearity follows each layer, whatever way the model is written.

Each layer's output is followed through normalization, pooling, dropout, reshapes and sums to the nearest nonlinearity
or the next layer. The data flow comes from symbolic tracing; where a forward decides by its data, from one recorded
forward; and where there is no batch for that, from guesses that say so.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace

from torch import fx, nn

from lightning_init._names import PARALLEL
from lightning_init.nonlinearities import Nonlinearity, recognise
from lightning_init.tracing.graphs import CannotTraceError, record, trace
from lightning_init.tracing.roles import Role, keeps_forward, role_of
from lightning_init.tracing.walk import Follower, Walk, preference


def followers(model: nn.Module, batch: object = None) -> dict[str, Follower]:
    """Return what follows each layer that owns a weight; nothing is raised, and the model is left as it was.

    Args:
        model: any module; a LightningModule is followed through its `forward`.
        batch: for models whose forward decides by its data: a tensor, a tuple of arguments or a mapping of keyword
            arguments. `model.example_input_array` is used when it is None.

    Returns:
        Layer name -> `Follower`. A follower is not `certain` where the forward could not be followed; the reason says
        why, and `complaint` makes one message of all of them.

    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))
    >>> for name, follower in followers(model).items():
    ...     print(name, follower.nonlinearity, "|", follower.reason)
    0 relu | followed by ReLU `2` (traced)
    4 None | last layer (traced)
    """
    search = _Search(model, batch)
    search.explore(*_unwrapped(model))
    return search.answers()


def complaint(found: Mapping[str, Follower]) -> str | None:
    """Return one message about every layer of which it is not certain what follows; None if there is none.

    >>> complaint({"fc": Follower("relu", "followed by F.relu (traced)")}) is None
    True
    """
    doubtful = [f"  {name}: {follower.reason}" for name, follower in found.items() if not follower.certain]
    if not doubtful:
        return None
    return (
        f"nonlinearity='auto' is not certain what follows {len(doubtful)} of {len(found)} layers; give a batch or "
        "`example_input_array`, or name their nonlinearity in rules:\n" + "\n".join(doubtful)
    )


def dataflow(model: nn.Module, batch: object = None) -> tuple[Walk | None, str]:
    """Return the walk over the graph of the whole model and how that graph was made; None and why there is none.

    Args:
        model: any module, as for `followers`.
        batch: as for `followers`.
    """
    name, module = _unwrapped(model)
    search = _Search(model, batch)
    graph, how, certain = search.graph(module, root=True)
    if graph is None or not certain:
        return None, search.why_not
    return Walk(graph, module, search.roles, Follower(None, "last layer"), name), how


class _Search:
    """Collects followers, from the graph of the model or of its parts."""

    def __init__(self, model: nn.Module, batch: object) -> None:
        self._model = model
        self._root = _unwrapped(model)[0]
        self._batch = _example(model) if batch is None else batch
        self.roles: dict[nn.Module, Role] = {
            module: role for module in model.modules() if (role := role_of(module)) is not None
        }
        self._names = [name for name, module in model.named_modules() if self._is_layer(module)]
        self._below: dict[str, list[str]] = defaultdict(list)  # module -> the layers in it
        for layer in self._names:
            for end, character in enumerate(layer):
                if character == ".":
                    self._below[layer[:end]].append(layer)
        self._inside = dict(_inside(model))
        self._found: dict[str, Follower] = dict(self._inside)
        self._ends: dict[str, str] = {}  # layer -> the module that it ends, where nothing behind that is known
        self._siblings: dict[str, tuple[list[tuple[str, nn.Module]], dict[str, int]]] = {}
        self.why_not = ""
        self._whole = False  # whether the graph of the whole model was read

    def answers(self) -> dict[str, Follower]:
        """Return the followers of all layers, in the model's order."""
        why = "not used by forward" if self._whole else f"nothing is known about it: {self.why_not}"
        unused = Follower(None, why, certain=False)
        found = {name: self._found.get(name, unused) for name in dict.fromkeys((*self._names, *self._found))}
        return {name: self._or_registered_next(name, follower) for name, follower in found.items()}

    def explore(self, name: str, module: nn.Module) -> None:
        """Find followers in the graph of `module`; in those of its parts where it has none."""
        read = self._read(name, module)
        for child_name, child in module.named_children():
            self._explore_unknown(f"{name}.{child_name}" if name else child_name, child)
        if not read and not self._read(name, module) and name != self._root:  # again: its parts may be opaque now
            self.roles[module] = Role("opaque")

    def _explore_unknown(self, name: str, module: nn.Module) -> None:
        if any(layer not in self._found for layer in self._below.get(name, ())):
            self.explore(name, module)

    def _read(self, name: str, module: nn.Module) -> bool:
        """Read the followers off the graph of `module`, if there is one."""
        graph, how, certain = self.graph(module, root=name == self._root)
        if graph is None:
            return False
        end = Follower(None, "last layer")
        if name != self._root:
            end = Follower(None, f"ends `{name}`, behind which nothing is known: {self.why_not}", certain=False)
        self._whole |= name == self._root
        walk = Walk(graph, module, self.roles, end, name)
        for layer, node in walk.layers():
            found = walk.follow(node)
            if found is end and name != self._root:
                self._ends[layer] = name
            self._note(layer, Follower(found.nonlinearity, f"{found.reason} ({how})", found.certain and certain))
        for layer, found in walk.hidden():
            self._note(layer, replace(found, reason=f"{found.reason} ({how})"))
        return True

    def _note(self, name: str, follower: Follower) -> None:
        known = self._found.get(name)
        if name in self._inside:
            return  # whatever follows the module, its own weights meet what is inside
        if known is None or preference(follower) < preference(known):
            self._found[name] = follower

    def graph(self, module: nn.Module, *, root: bool) -> tuple[fx.Graph | None, str, bool]:
        """Return the graph of a module, how it was made, and whether nothing had to be guessed."""
        try:
            return trace(module, self._is_leaf), "traced", True
        except CannotTraceError as error:
            why = f"{type(module).__name__}.forward cannot be traced: {error}"
        if root and self._batch is not None:
            try:
                return record(module, self._batch, self._is_leaf), "seen in one forward", True
            except CannotTraceError as error:
                why += f"; nor run: {error}"
        self.why_not = self.why_not or why
        try:
            return trace(module, self._is_leaf, guess=True), f"guessed at what depends on data: {why}", False
        except CannotTraceError:
            return None, "", False

    def _is_leaf(self, module: nn.Module) -> bool:
        return module in self.roles or (
            type(module).__module__.startswith("torch.nn") and not isinstance(module, nn.Sequential)
        )

    def _is_layer(self, module: nn.Module) -> bool:
        role = self.roles.get(module)
        return role is not None and role.kind == "layer" and any(True for _ in module.parameters(recurse=False))

    def _or_registered_next(self, name: str, follower: Follower) -> Follower:
        """Assume that a nonlinearity registered right behind a layer follows it, if nothing better is known."""
        if follower.certain or follower.nonlinearity is not None:
            return follower
        parent_name, _, own_name = self._ends.get(name, name).rpartition(".")
        for child, module in self._registered_behind(parent_name, own_name):
            role = self.roles.get(module)
            if role is not None and role.kind == "through":
                continue
            if role is not None and role.kind == "nonlinearity":
                reason = f"assumed, since {type(module).__name__} `{child}` is registered next ({follower.reason})"
                return replace(follower, nonlinearity=role.nonlinearity, reason=reason)
            break
        return follower

    def _registered_behind(self, parent_name: str, own_name: str) -> Iterator[tuple[str, nn.Module]]:
        """Yield the siblings registered behind one child."""
        if parent_name not in self._siblings:
            siblings = list(self._model.get_submodule(parent_name).named_children())
            self._siblings[parent_name] = siblings, {child: i for i, (child, _) in enumerate(siblings)}
        siblings, positions = self._siblings[parent_name]
        for i in range(positions.get(own_name, len(siblings)) + 1, len(siblings)):
            yield siblings[i]


def _unwrapped(model: nn.Module) -> tuple[str, nn.Module]:
    """Return what torch.compile, DataParallel or DistributedDataParallel is around, and its name in `model`."""
    wrapped = "module" if isinstance(model, PARALLEL) else "_orig_mod"
    inner = dict(model.named_children()).get(wrapped)
    if inner is None:
        return "", model
    name, module = _unwrapped(inner)
    return f"{wrapped}.{name}" if name else wrapped, module


def _example(model: nn.Module) -> object:
    try:
        return getattr(model, "example_input_array", None)
    except Exception:  # noqa: BLE001 - a property of the user's may fail in any way
        return None


def _inside(model: nn.Module) -> Iterator[tuple[str, Follower]]:
    """Yield the followers that are inside a module of torch and known from its definition."""
    for name, module in model.named_modules():
        if isinstance(module, (nn.RNN, nn.RNNCell)):
            yield name, Follower(module.nonlinearity, f"its own recurrence has {module.nonlinearity}")
        elif isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
            yield name, Follower(None, "its gates, sigmoid and tanh, are inside")
        elif isinstance(module, nn.MultiheadAttention):
            yield name, Follower(None, "attention: products and a softmax are inside")
        elif keeps_forward(module, (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)):
            kind = type(module).__name__
            yield f"{name}.linear1", Follower(_activation(module), f"the activation of {kind} `{name}`")
            for layer in ("linear2", "self_attn.out_proj", "multihead_attn.out_proj"):
                if _has(module, layer):
                    yield f"{name}.{layer}", Follower(None, f"ends a residual branch of {kind} `{name}`")


def _has(module: nn.Module, name: str) -> bool:
    return any(found == name for found, _ in module.named_modules())


def _activation(module: nn.Module) -> Nonlinearity:
    activation: Nonlinearity = module.activation  # type: ignore[assignment]  # a submodule or tensor, to mypy
    return recognise(activation) or activation
