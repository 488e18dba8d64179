"""Dataflow graphs of a model: by symbolic tracing, or by watching one forward. The model is left as it was."""

from __future__ import annotations

import contextlib
import inspect
import random
import re
import sys
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

IsLeaf = Callable[[nn.Module], bool]


class CannotTraceError(Exception):
    """Why a module's forward could not be followed."""


def trace(model: nn.Module, is_leaf: IsLeaf, *, guess: bool = False) -> fx.Graph:
    """Return the graph of `model.forward` by symbolic tracing; nothing is computed.

    `get_attr` nodes carry what they stand for in `meta["value"]`.

    Args:
        model: what to trace.
        is_leaf: whether a submodule is one node of the graph.
        guess: go on where a decision depends on data: conditions count as false, loops run once.

    Raises:
        CannotTraceError: with the reason.
    """
    error: Exception | None = None
    for with_defaults in (True, False):
        try:
            with _read_only(model):
                graph = _Tracer(is_leaf, guess=guess).trace(model, _defaults(model) if with_defaults else None)
                for node in graph.nodes:
                    if node.op == "get_attr":  # some exist during the trace only
                        node.meta["value"] = attrgetter(node.target)(model)
                return graph
        except Exception as caught:  # noqa: BLE001, PERF203 - a forward may fail in any way; that is an answer too
            error = error or caught
    raise CannotTraceError(_first_line(error)) from error


def _defaults(model: nn.Module) -> dict[str, object] | None:
    """Return the optional arguments of `forward`: as symbols they would look as if they had been given."""
    parameters = inspect.signature(type(model).forward).parameters.items()
    plain = (type(None), bool, int, float, str)
    return {name: parameter.default for name, parameter in parameters if isinstance(parameter.default, plain)} or None


class _Tracer(fx.Tracer):
    def __init__(self, is_leaf: IsLeaf, *, guess: bool) -> None:
        super().__init__()
        self._is_leaf = is_leaf
        self._guess = guess

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        del module_qualified_name
        return self._is_leaf(m)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> object:
        inner = getattr(m, "_orig_mod", m)  # a compiled module refuses symbols; what it was compiled from does not
        return super().call_module(inner, forward if inner is m else inner.forward, args, kwargs)

    def to_bool(self, obj: fx.Proxy) -> bool:
        return False if self._guess else super().to_bool(obj)

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        try:
            return super().iter(obj)
        except fx.proxy.TraceError:
            if not self._guess:
                raise
            return iter((obj[0],))  # type: ignore[index]  # Proxy defines it at run time


def record(model: nn.Module, batch: object, is_leaf: IsLeaf) -> fx.Graph:
    """Return the graph of one forward in evaluation mode, without gradients.

    Args:
        model: what to run.
        batch: a tensor; a tuple or list (the arguments, or the first is the input); a mapping (keyword arguments).
        is_leaf: whether a submodule is one node of the graph.

    Raises:
        CannotTraceError: with the reason.
    """
    device = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
    batch = tree_map(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, batch)
    error: Exception | None = None
    for arguments, keywords in [*_ways_to_call(batch), *_ways_to_call(_as_parameters(batch, model))]:
        recorder = _Recorder(model, is_leaf)
        try:
            with _read_only(model), torch.no_grad():
                model.eval()
                return recorder.run(arguments, keywords)
        except Exception as caught:  # noqa: BLE001 - the next way to call it may work
            error = error or caught
    raise CannotTraceError(_first_line(error)) from error


def _as_parameters(batch: object, model: nn.Module) -> object:
    """Return the batch with numbers as wide as the model's: Lightning halves the data before the module."""
    dtype = next((one.dtype for one in model.parameters() if one.is_floating_point()), None)
    return tree_map(
        lambda leaf: leaf.to(dtype) if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf, batch
    )


def _ways_to_call(batch: object) -> list[tuple[tuple[object, ...], Mapping[str, object]]]:
    if isinstance(batch, Mapping):
        return [((), batch), ((batch,), {})]
    if isinstance(batch, (tuple, list)):
        return [(tuple(batch), {}), (tuple(batch[:1]), {}), ((batch,), {})]
    return [((batch,), {})]


def _first_line(error: Exception | None) -> str:
    """Return the error's type and the first sentence of its message."""
    message = str(error).strip()
    sentence = message.splitlines()[0].split(". ")[0] if message else "no message"
    return f"{type(error).__name__}: {sentence}"[:200]


class _Recorder(TorchFunctionMode):
    """Writes down every torch function and leaf module that a tensor of the batch or the model goes through."""

    def __init__(self, model: nn.Module, is_leaf: IsLeaf) -> None:
        super().__init__()
        self.graph = fx.Graph()
        self._model = model
        self._leaves = {module: name for name, module in model.named_modules() if name and is_leaf(module)}
        self._nodes: dict[int, tuple[weakref.ref[Tensor], fx.Node]] = {}
        self._inside: list[nn.Module] = []

    def run(self, arguments: tuple[object, ...], keywords: Mapping[str, object]) -> fx.Graph:
        for i, leaf in enumerate(tree_leaves((arguments, keywords))):
            self._bind(leaf, self.graph.placeholder(f"input_{i}"))
        for name, tensor in (*self._model.named_parameters(), *self._model.named_buffers()):
            node = self.graph.create_node("get_attr", name)
            node.meta["value"] = tensor
            self._bind(tensor, node)
        for module in self._leaves:
            module.register_forward_pre_hook(self._enter)
            module.register_forward_hook(self._leave, with_kwargs=True)
        with self:
            output = self._model(*arguments, **keywords)
        self.graph.output(self._nodes_in(output))
        return self.graph

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        known = not self._inside and self._knows((args, kwargs))
        nodes = self._nodes_in((args, kwargs)) if known else None  # before the call: it may work in place
        result = func(*args, **kwargs)
        if nodes is not None:
            node = self.graph.call_function(func, *nodes)
            node.meta["decides"] = not any(isinstance(leaf, Tensor) for leaf in tree_leaves(result))  # a plain number
            self._bind_all(result, node)
        return result

    def _enter(self, module: nn.Module, _args: object) -> None:
        self._inside.append(module)

    def _leave(self, module: nn.Module, args: object, kwargs: object, output: object) -> None:
        self._inside.pop()
        if not self._inside and self._knows((args, kwargs)):
            node = self.graph.create_node("call_module", self._leaves[module], *self._nodes_in((args, kwargs)))
            self._bind_all(output, node)

    def _bind_all(self, output: object, node: fx.Node) -> None:
        for leaf in tree_leaves(output):
            self._bind(leaf, node)

    def _bind(self, leaf: object, node: fx.Node) -> None:
        if isinstance(leaf, Tensor):
            self._nodes[id(leaf)] = (weakref.ref(leaf), node)

    def _node_of(self, leaf: object) -> object:
        reference, node = self._nodes.get(id(leaf), (None, None))
        return node if reference is not None and reference() is leaf else leaf

    def _knows(self, tree: object) -> bool:
        return any(isinstance(self._node_of(leaf), fx.Node) for leaf in tree_leaves(tree))

    def _nodes_in(self, tree: Any) -> Any:  # noqa: ANN401 - the same structure, nodes in place of tensors
        return tree_map(self._node_of, tree)


# --- leaving no trace -----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _read_only(model: nn.Module) -> Iterator[None]:
    """Undo what the body does to the model's attributes, hooks and modes; keep it from writing into its tensors.

    Hooks (a monitor's, a user's) are taken off, since symbols and trial batches are not for them. The random streams
    are restored.
    """
    states = [(module, _Snapshot(module)) for module in model.modules()]
    devices = {tensor.device for tensor in model.parameters() if tensor.device.type == "cuda"}
    streams = random.getstate(), np.random.get_state()
    try:
        for module, _ in states:
            for hooks in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"):
                module.__dict__.get(hooks, {}).clear()
        with (
            warnings.catch_warnings(),
            _eager(),
            torch.random.fork_rng(devices=list(devices)),
            _NoWrites(_storages(model)),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        for _, state in states:
            state.restore()
        random.setstate(streams[0])
        np.random.set_state(streams[1])


def _eager() -> contextlib.AbstractContextManager[object]:
    """Run compiled modules as they are written; where there are none the compiler need not even be imported."""
    compiling = "torch._dynamo" in sys.modules
    return torch.compiler.set_stance("force_eager") if compiling else contextlib.nullcontext()


class _Snapshot:
    """The attributes of a module, and the contents of those that are plain containers."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._attributes = dict(module.__dict__)
        self._contents = [
            (value, list(value.items()) if isinstance(value, dict) else list(value))
            for value in self._attributes.values()
            if isinstance(value, (dict, list, set, deque))
        ]

    def restore(self) -> None:
        self._module.__dict__.clear()
        self._module.__dict__.update(self._attributes)
        for container, content in self._contents:
            container.clear()
            refill = container.update if isinstance(container, (dict, set)) else container.extend
            refill(content)


def _storages(model: nn.Module) -> set[int]:
    tensors = [*model.parameters(), *model.buffers()]
    return {address for tensor in tensors if (address := _address(tensor))}


def _address(tensor: Tensor) -> int:
    try:
        return tensor.untyped_storage().data_ptr()
    except (RuntimeError, ValueError, NotImplementedError):  # lazy, sparse, wrapped: has no storage of its own
        return 0


_WRITES = re.compile(r".*[^_]_|__i(add|sub|mul|truediv|floordiv|pow|mod|and|or|xor)__|__setitem__|__set__")


class _NoWrites(TorchFunctionMode):
    """Skips functions that would write into given storages."""

    def __init__(self, storages: Collection[int]) -> None:
        super().__init__()
        self._storages = storages

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        target = args[0] if args else None
        if (
            isinstance(target, Tensor)
            and _WRITES.fullmatch(getattr(func, "__name__", ""))
            and _address(target) in self._storages
        ):
            return target
        return func(*args, **(kwargs or {}))
