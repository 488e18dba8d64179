"""Where a value lives: how the effective weight of a module is read and written.

`module.weight` is not always a parameter. Under `torch.nn.utils.parametrize` it is computed from `original` tensors
and must be written through `right_inverse`; the older hook-based `weight_norm`, `spectral_norm` and pruning keep
`weight_g`/`weight_v` or `weight_orig` instead. Writing `.weight` itself is silently lost in each case (PT#180968).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import ParametrizationList
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from lightning_init import fans
from lightning_init._names import clean, join

_POWER_ITERATIONS = 15  # as many as torch's parametrized spectral_norm runs when it is registered


@dataclass(frozen=True)
class Place:
    """One effective parameter of one module, and the stored parameters behind it.

    Args:
        module_name: the path of the owner, wrapper prefixes stripped.
        module: the owner.
        leaf: the effective name in the owner, `weight` also where that is computed.
        stored: clean full name -> stored parameter; one entry, except where the effective value is computed.
        also: other full names under which the same parameter is found (tied parameters).
        tied_to: name of the place that another part of the same value belongs to; this one must not be written.
        alias: the name that comes first, where a module that only refers to the parameter comes before its owner.
    """

    module_name: str
    module: nn.Module
    leaf: str
    stored: dict[str, nn.Parameter] = field(compare=False)
    also: tuple[str, ...] = ()
    tied_to: str = ""
    alias: str = ""

    kind = "direct"

    @cached_property
    def name(self) -> str:
        """Full effective name: `fc.weight`, also where `fc.weight` is computed."""
        return self.alias or join(self.module_name, self.leaf)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Every name that a rule may use for it: effective, tied and stored."""
        return tuple(dict.fromkeys((self.name, *self.also, *self.stored)))

    @property
    def owner(self) -> str:
        """Class name of the module, also where parametrization has changed the class."""
        kind = type(self.module)
        return (kind.__bases__[0] if _chains(self.module) else kind).__name__

    @property
    def parameter(self) -> nn.Parameter:
        """The (first) stored parameter."""
        return next(iter(self.stored.values()))

    @cached_property
    def shape(self) -> torch.Size:
        """Shape of the effective value."""
        return self.parameter.shape

    @property
    def frozen(self) -> bool:
        """Whether something behind it is not trained."""
        return not all(parameter.requires_grad for parameter in self.stored.values())

    def read(self) -> Tensor:
        """Return the effective value, detached."""
        return self.parameter.detach()

    def write_(self, value: Tensor) -> None:
        """Make `value` the effective value, as far as the computation behind it allows."""
        self.parameter.data.copy_(value)

    def snapshot(self) -> Callable[[], None]:
        """Return a function that puts back what is there now."""
        modules = list(self._modules())
        stores = [store for module in modules for store in (vars(module), module._buffers)]  # noqa: SLF001 (kept themselves)
        held = [(store, dict(store)) for store in stores]
        tensors = (*self.stored.values(), *(buffer for module in modules for buffer in module.buffers(recurse=False)))
        copies = [(tensor, tensor.data, tensor.detach().clone()) for tensor in tensors]

        def restore() -> None:
            for store, before in held:  # buffers and attributes themselves: `right_inverse` may make new ones
                store.update(before)
                for added in store.keys() - before.keys():
                    del store[added]
            for tensor, memory, copy in copies:  # the memory itself: it may be shared
                tensor.data = memory
                memory.copy_(copy)

        return restore

    def _modules(self) -> Iterator[nn.Module]:
        """Yield the modules whose buffers and attributes `write_` may change."""
        return iter(())


class _Computed(Place):
    """An effective value computed by hooks or parametrizations; reading it must not train or differentiate."""

    @cached_property
    def shape(self) -> torch.Size:
        return self.read().shape

    def read(self) -> Tensor:
        with torch.no_grad():
            value: Tensor = getattr(self.module, self.leaf)
            return value.detach()

    def _modules(self) -> Iterator[nn.Module]:
        """Yield the owner: a hook leaves the value in it, beside `weight_u` and `weight_v` of the old spectral_norm."""
        yield self.module


class _Parametrized(_Computed):
    kind = "parametrization"

    @property
    def _chain(self) -> nn.Module:
        return _chains(self.module)[self.leaf]

    def read(self) -> Tensor:
        chain = self._chain
        training = [module for module in chain.modules() if module.training]
        chain.eval()  # spectral_norm iterates on every read in training mode
        try:
            return super().read()
        finally:
            for module in training:
                module.training = True

    def _modules(self) -> Iterator[nn.Module]:
        return self._chain.modules()

    def write_(self, value: Tensor) -> None:
        with torch.no_grad():
            setattr(self.module, self.leaf, value)
            spectral = [m for m in self._chain.modules() if type(m).__name__ == "_SpectralNorm"]
            for module in spectral:
                training, _ = module.training, module.train()
                for _ in range(_POWER_ITERATIONS):
                    getattr(self.module, self.leaf)
                module.training = training


class _WeightNormed(_Computed):
    kind = "weight_norm"

    def write_(self, value: Tensor) -> None:
        hook = _hook(self.module, self.leaf)
        with torch.no_grad():
            getattr(self.module, f"{self.leaf}_v").copy_(value)
            magnitude = torch.norm_except_dim(value, 2, hook.dim)
            getattr(self.module, f"{self.leaf}_g").copy_(magnitude)
            hook(self.module, None)


class _SpectralNormed(_Computed):
    kind = "spectral_norm"

    def write_(self, value: Tensor) -> None:
        hook, training = _hook(self.module, self.leaf), self.module.training
        with torch.no_grad():
            getattr(self.module, f"{self.leaf}_orig").copy_(value)
            self.module.training = True
            try:
                for _ in range(_POWER_ITERATIONS):
                    hook(self.module, None)
            finally:
                self.module.training = training


class _Pruned(_Computed):
    kind = "pruning mask"

    def write_(self, value: Tensor) -> None:
        with torch.no_grad():
            getattr(self.module, f"{self.leaf}_orig").copy_(value)
            _hook(self.module, self.leaf)(self.module, None)


_HOOKED: dict[type, tuple[type[Place], tuple[str, ...]]] = {
    WeightNorm: (_WeightNormed, ("_g", "_v")),
    SpectralNorm: (_SpectralNormed, ("_orig",)),
    BasePruningMethod: (_Pruned, ("_orig",)),
}


def _hooks(module: nn.Module) -> dict[str, Any]:
    """Return effective name -> the hook of torch.nn.utils (untyped there) that computes it."""
    hooks = module._forward_pre_hooks.values()  # noqa: SLF001 (torch keeps no public list of hooks)
    ours: list[Any] = [hook for hook in hooks if isinstance(hook, tuple(_HOOKED))]
    return {getattr(hook, "_tensor_name", None) or hook.name: hook for hook in ours}


def _hook(module: nn.Module, leaf: str) -> Any:  # noqa: ANN401 (untyped in torch)
    return _hooks(module)[leaf]


def _chains(module: nn.Module) -> dict[str, ParametrizationList]:
    """Return effective name -> what computes it; a user's own attribute `parametrizations` is none of that."""
    chains = getattr(module, "parametrizations", None)
    if not isinstance(chains, nn.ModuleDict):
        return {}
    return {leaf: chain for leaf, chain in chains.items() if isinstance(chain, ParametrizationList)}


def _places_of(module_name: str, module: nn.Module) -> Iterator[Place]:
    """Yield the places that `module` itself owns."""
    hidden: set[str] = set()
    for leaf, hook in _hooks(module).items():
        kind, suffixes = next(value for base, value in _HOOKED.items() if isinstance(hook, base))
        parameters = module._parameters  # noqa: SLF001 (with those that are None, which the public view leaves out)
        stored = {f"{leaf}{suffix}": parameters.get(f"{leaf}{suffix}") for suffix in suffixes}
        if not stored.keys() <= parameters.keys():
            raise NotImplementedError(
                f"{join(module_name, leaf)} is computed by hooks around hooks; use torch.nn.utils.parametrizations"
            )
        hidden |= set(stored)
        yield kind(module_name, module, leaf, {join(module_name, k): p for k, p in stored.items() if p is not None})
    for leaf, chain in _chains(module).items():
        base = join(module_name, "parametrizations", leaf)
        originals = {join(base, k): p for k, p in chain.named_parameters(recurse=False)}
        if originals:
            yield _Parametrized(module_name, module, leaf, originals)
    if not isinstance(module, ParametrizationList):
        for leaf, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            if leaf not in hidden:
                yield Place(module_name, module, leaf, {join(module_name, leaf): parameter})


def places(model: nn.Module) -> list[Place]:
    """Return one `Place` for each effective parameter of `model`, in registration order; tied ones once.

    Raises:
        ValueError: two parameters have one name once what wrappers add is taken off.

    >>> model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 2)))
    >>> [(place.name, place.kind, list(place.stored)) for place in places(model)]
    ... # doctest: +NORMALIZE_WHITESPACE
    [('0.weight', 'parametrization', ['0.parametrizations.weight.original0', '0.parametrizations.weight.original1']),
     ('0.bias', 'direct', ['0.bias'])]
    """
    found: dict[str, Place] = {}
    home: dict[int, str] = {}  # stored parameter -> the place that it belongs to
    memory: dict[object, str] = {}  # the same, for parameters of their own that are one in memory
    raw: dict[str, str] = {}
    for raw_name, module in model.named_modules(remove_duplicate=False):
        for place in _places_of(clean(raw_name, model), module):
            tied = {stored: home[id(parameter)] for stored, parameter in place.stored.items() if id(parameter) in home}
            rest = {stored: parameter for stored, parameter in place.stored.items() if stored not in tied}
            for stored, name in tied.items():
                alias = stored if rest else place.name
                if alias not in found[name].names:
                    found[name] = replace(found[name], also=(*found[name].also, alias))
                if not rest and _refers(found[name], place):
                    first = found[name]
                    found[name] = replace(place, stored=first.stored, also=first.also, alias=first.name)
            if rest:
                full = join(raw_name, place.leaf)
                if place.name in found:
                    raise ValueError(f"{raw[place.name]!r} and {full!r} are both called {place.name!r}: rename one")
                raw[place.name] = full
                home.update((id(parameter), place.name) for parameter in rest.values())
                shared = [memory[_memory(p)] for p in rest.values() if _memory(p) in memory]
                memory.update((_memory(parameter), place.name) for parameter in rest.values())
                found[place.name] = replace(place, stored=rest, tied_to=next(iter((*tied.values(), *shared)), ""))
    return list(found.values())


def _refers(first: Place, place: Place) -> bool:
    """Return whether `first` merely refers to what `place` uses: `model.tied = model.head.weight`."""
    both_direct = first.kind == place.kind == "direct"
    return both_direct and not fans.known(first.module) and fans.known(place.module)


def _memory(parameter: nn.Parameter) -> object:
    """Return what is equal for two parameters that are the same entries of memory, transposed or not."""
    start = address(parameter)
    if start == 0:
        return id(parameter)
    steps = zip(parameter.stride(), parameter.shape, strict=True)
    return (parameter.device, start, parameter.dtype, *sorted(step for step in steps if step[1] != 1))


def address(parameter: Tensor) -> int:
    """Return where the memory of `parameter` begins; 0 if it has none of its own (lazy, meta, sharded, sparse, fake).

    >>> address(torch.empty(3, device="meta"))
    0
    """
    if is_lazy(parameter) or isinstance(parameter, DTensor) or parameter.layout != torch.strided:
        return 0
    try:
        return parameter.data_ptr()
    except (RuntimeError, NotImplementedError):  # what torch raises for fake and other storageless tensors
        return 0


@contextmanager
def restored_on_error(changed: Iterable[Place]) -> Iterator[None]:
    """Put back what is there now if the body fails."""
    undo = [place.snapshot() for place in changed]
    try:
        yield
    except BaseException:
        for restore in undo:
            restore()
        raise
