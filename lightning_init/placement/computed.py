"""Places whose value is computed: by parametrizations, or by the older hooks of torch.nn.utils."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from lightning_init._names import join
from lightning_init.placement.place import Place, chains

_POWER_ITERATIONS = 15  # as many as torch's parametrized spectral_norm runs when it is registered


class _Computed(Place):
    """An effective value computed by hooks or parametrizations; reading it must not train or differentiate."""

    @cached_property
    def shape(self) -> torch.Size:
        return self.read().shape

    def read(self) -> Tensor:
        """Return the effective value, detached.

        Raises:
            NotImplementedError: what computes it fails, as torch's orthogonal and spectral_norm do on DTensors.
        """
        with torch.no_grad():
            try:
                value: Tensor = getattr(self.module, self.leaf)
            except Exception as error:
                raise NotImplementedError(
                    f"{self.name} is computed by its {self.kind}, which fails ({error}); keep it with None in rules"
                ) from error
            return value.detach()

    def _modules(self) -> Iterator[nn.Module]:
        """Yield the owner: a hook leaves the value in it, beside `weight_u` and `weight_v` of the old spectral_norm."""
        yield self.module


class _Parametrized(_Computed):
    kind = "parametrization"

    @property
    def _chain(self) -> nn.Module:
        return chains(self.module)[self.leaf]

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


def places_of(module_name: str, module: nn.Module) -> Iterator[Place]:
    """Yield the places that `module` itself owns, computed or direct."""
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
    for leaf, chain in chains(module).items():
        base = join(module_name, "parametrizations", leaf)
        originals = {join(base, k): p for k, p in chain.named_parameters(recurse=False)}
        if originals:
            yield _Parametrized(module_name, module, leaf, originals)
    if not isinstance(module, ParametrizationList):
        for leaf, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            if leaf not in hidden:
                yield Place(module_name, module, leaf, {join(module_name, leaf): parameter})
