"""What looks at the architecture first: a few weights are special, the rest follow a plain initializer."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn, TypeAlias

import torch
from torch import Tensor, nn

from lightning_init._names import clean
from lightning_init.auto.structure import Structure, structure
from lightning_init.fans import Fans, Shape
from lightning_init.initializers.base import Initializer, WholeModel
from lightning_init.tracing import dataflow

Special: TypeAlias = Mapping[str, tuple[Initializer, str]]
"""Full parameter name -> its initializer and why."""


@dataclass(frozen=True)
class Structural(WholeModel):
    """An initializer of a whole model; subclasses say which parameters are special."""

    @abstractmethod
    def special(self, model: nn.Module, found: Structure) -> Special:
        """Return the special parameters; raise ValueError where the architecture does not allow it."""

    @property
    @abstractmethod
    def rest(self) -> Initializer:
        """The initializer of all other weights."""

    def on(self, model: nn.Module) -> Initializer:
        """Return what each parameter of `model` gets."""
        walk, how = dataflow(model)
        if walk is None:
            raise ValueError(
                f"{self.label} must follow the data flow of {type(model).__name__}, and cannot: {how}; set its "
                "example_input_array, so that it can follow a forward pass"
            )
        return self.assigned(model, self.special(model, structure(walk)))

    def assigned(self, model: nn.Module, special: Special) -> Initializer:
        """Return the initializer that gives these parameters what they get, and the rest the rest."""
        return Assigned({clean(name, model): one for name, one in special.items()}, self.rest)

    def _refuse(self) -> NoReturn:
        raise ValueError(
            f"{self.label} looks at the whole model: make it the initializer, not that of a rule or a tensor"
        )


@dataclass(frozen=True)
class Assigned(Initializer):
    """What a structural initializer makes of one model."""

    chosen: Special
    rest: Initializer

    def claims(self, names: Sequence[str]) -> bool:
        """Return whether the parameter is special."""
        return any(name in self.chosen for name in names)

    def resolve(self, module: nn.Module, parameter_name: str, shape: Shape, names: Sequence[str]) -> Initializer | None:
        """Return the initializer of one parameter."""
        found = next((self.chosen[name][0] for name in names if name in self.chosen), None)
        return found or self.rest.resolve(module, parameter_name, shape, names)

    def reason(self, module: nn.Module, parameter_name: str, shape: Shape, names: Sequence[str]) -> str:
        """Return why a special parameter is special."""
        del module, parameter_name, shape
        return next((f": {self.chosen[name][1]}" for name in names if name in self.chosen), "")

    def target_std(self, shape: Shape, fans: Fans | None) -> None:
        """Return None: every parameter has its own."""

    def fill_(self, block: Tensor, fans: Fans | None, generator: torch.Generator | None) -> None:
        """Refuse: each parameter has its own initializer."""
        del block, fans, generator
        raise ValueError("each parameter has an initializer of its own: resolve it first")


def normalizations(model: nn.Module) -> list[str]:
    """Return the paths of the normalizations in `model`."""
    kinds = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)  # noqa: SLF001 (the common base)
    return [name for name, module in model.named_modules() if isinstance(module, kinds)]
