"""`Place`: one effective parameter, how it is read, written, and put back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from lightning_init._names import join


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
        users: other modules that use the same parameter as it is stored.
    """

    module_name: str
    module: nn.Module
    leaf: str
    stored: dict[str, nn.Parameter] = field(compare=False)
    also: tuple[str, ...] = ()
    tied_to: str = ""
    alias: str = ""
    users: tuple[nn.Module, ...] = field(default=(), compare=False)

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
        return (kind.__bases__[0] if chains(self.module) else kind).__name__

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


def chains(module: nn.Module) -> dict[str, ParametrizationList]:
    """Return effective name -> what computes it; a user's own attribute `parametrizations` is none of that."""
    found = getattr(module, "parametrizations", None)
    if not isinstance(found, nn.ModuleDict):
        return {}
    return {leaf: chain for leaf, chain in found.items() if isinstance(chain, ParametrizationList)}
