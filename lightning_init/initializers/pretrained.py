"""Pretrained weights as an initializer: a rule says which part of the model comes from a file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, TypeAlias

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from lightning_init._suggest import closest
from lightning_init.fans import Fans, Layout, Shape
from lightning_init.initializers.base import Initializer

StateDict: TypeAlias = Mapping[str, Tensor]


@dataclass(frozen=True)
class Given(Initializer):
    """Copies one tensor of the same shape, whatever its layout; what `Pretrained` resolves to."""

    key: str
    value: Tensor = field(repr=False, compare=False)
    complete: ClassVar[bool] = True

    def check(self, shape: Shape, layout: Layout | None) -> None:
        """Raise ValueError if the shapes differ."""
        super().check(shape, layout)
        if not isinstance(self.value, Tensor) or self.value.is_meta:
            raise ValueError(
                f"the pretrained {self.key!r} must be a tensor with memory, got {type(self.value).__name__}"
            )
        sharded = isinstance(self.value, DTensor)
        if sharded or self.value.layout != torch.strided or self.value.is_quantized:
            found = "a sharded one (see DTensor.full_tensor)" if sharded else self.value.type()
            raise ValueError(f"the pretrained {self.key!r} must be a dense tensor of numbers, got {found}")
        if tuple(shape) != tuple(self.value.shape):
            raise ValueError(f"the pretrained {self.key!r} has shape {tuple(self.value.shape)}, not {tuple(shape)}")

    def check_dtype(self, dtype: torch.dtype) -> None:
        """Raise ValueError if imaginary parts would be lost in a parameter of `dtype`."""
        if self.value.is_complex() and not dtype.is_complex:
            raise ValueError(f"the pretrained {self.key!r} is {self.value.dtype}, which {dtype} cannot hold")

    def target_std(self, shape: Shape, fans: Fans | None) -> None:
        """Return None: the values are what they are."""

    def fill_(self, block: Tensor, fans: Fans | None, generator: torch.Generator | None) -> None:
        """Copy."""
        del fans, generator
        self.check_dtype(block.dtype)
        block.copy_(self.value)


@dataclass(frozen=True, eq=False)
class Pretrained(Initializer):
    """Take values from a state dict or a file that holds one, biases and normalization scales included.

    Parameter `name` of the model gets the entry `prefix + name`, without the leading `into.` if that is given. Buffers
    (running statistics) are not parameters and stay as they are: `load_state_dict` is for them.

    Args:
        source: a state dict, or the path of a file with one (also a Lightning checkpoint); loaded with
            `weights_only=True`, once.
        prefix: what the entries' names have in front in the file (`"model."` in many Lightning checkpoints).
        into: the submodule of the model that the file describes (`"backbone"`).

    Raises:
        ValueError: under a rule, if a parameter has no entry or one of another shape; before anything is written.

    >>> backbone = Pretrained({"model.fc.weight": torch.ones(2, 3)}, prefix="model.", into="net")
    >>> backbone.resolve(nn.Linear(3, 2), "weight", (2, 3), ["net.fc.weight"])
    Given(key='model.fc.weight')
    """

    source: str | os.PathLike[str] | StateDict
    prefix: str = ""
    into: str = ""
    complete: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not isinstance(self.source, (str, os.PathLike, Mapping)):
            raise TypeError(f"source must be a path or a state dict, got {type(self.source).__name__}")

    def resolve(self, module: nn.Module, parameter_name: str, shape: Shape, names: Sequence[str]) -> Initializer | None:
        """Return the initializer that copies the entry of the parameter; None if there is none."""
        del module, parameter_name, shape
        state = self._state()
        key = next((key for key in map(self._key, names) if key in state), None)
        return None if key is None else Given(key, state[key])

    def claims(self, names: Sequence[str]) -> bool:
        """Return True: values are brought for everything."""
        del names
        return True

    def missing(self, name: str) -> str:
        """Return which entry there should be for `name`, and the closest ones."""
        near = ", ".join(closest(self._key(name), self._state()))
        return f"the pretrained values have no entry {self._key(name)!r}; the closest are: {near}"

    def _key(self, name: str) -> str:
        return self.prefix + (name.removeprefix(f"{self.into}.") if self.into else name)

    def check(self, shape: Shape, layout: Layout | None) -> None:
        """Refuse: without a name there is no entry."""
        del shape, layout
        raise ValueError(f"{self} has an entry for each parameter name: use it in initialize or InitCallback")

    def target_std(self, shape: Shape, fans: Fans | None) -> None:
        """Return None: the values are what they are."""

    def fill_(self, block: Tensor, fans: Fans | None, generator: torch.Generator | None) -> None:
        """Refuse, as `check`."""
        del fans, generator
        self.check(block.shape, None)

    def __repr__(self) -> str:
        source = f"<{len(self.source)} entries>" if isinstance(self.source, Mapping) else repr(os.fspath(self.source))
        return f"Pretrained({source}, prefix={self.prefix!r}, into={self.into!r})"

    def _state(self) -> StateDict:
        if isinstance(self.source, Mapping):
            return _tensors(self.source, "source")
        path = Path(self.source)
        if not path.is_file():
            raise ValueError(f"source: there is no file {str(path)!r}")
        return _load(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=1)
def _load(path: Path, _modified: int) -> StateDict:
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # other files' bytes make the unpickler raise anything: KeyError, struct.error, ...
        raise ValueError(f"source: {str(path)!r} is no file of tensors that torch.load can read safely") from error
    return _tensors(loaded, str(path))


def _tensors(loaded: object, what: str) -> StateDict:
    """Return the state dict in `loaded`, which may be a checkpoint around it."""
    if isinstance(loaded, Mapping) and isinstance(loaded.get("state_dict"), Mapping):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, Mapping) or not any(isinstance(value, Tensor) for value in loaded.values()):
        found = type(loaded).__name__
        if isinstance(loaded, Mapping):
            found += f" of {', '.join(map(str, list(loaded)[:5])) or 'nothing'}; if one of these holds it, pass that"
        raise ValueError(f"{what} must hold a state dict (names to tensors), got {found}")
    return loaded
