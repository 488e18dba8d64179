"""What every initializer is: settings in a frozen dataclass, a closed-form std, and a way to fill one tensor."""

from __future__ import annotations

import dataclasses
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, NoReturn

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from typing_extensions import Self

from lightning_init.fans import Fans, Layout, Mode, Shape, torch_layout
from lightning_init.nonlinearities import Nonlinearity


@dataclasses.dataclass(frozen=True)
class Initializer(ABC):
    """Fills one tensor; subclasses are frozen dataclasses whose fields are their settings.

    A subclass says three things: `target_std`, the closed-form standard deviation it aims at; `check`, what it refuses;
    and `fill_`, which writes one block. Calling the initializer does the rest (dtype, memory format, blocks, padding).

    Class attributes:
        elementwise: entries are drawn independently, so blocks with equal fans are filled in one go. Structured
            initializers (orthogonal, dirac, ...) see one block at a time, in canonical order `(out, in, *kernel)`.
        needs_layout: the values depend on fans or on the matrix structure, so it can only apply to a weight.
        constant: every entry is given, nothing is drawn; makes sense for biases and normalization scales too.
        complete: brings values for biases too, so `bias=` does not apply (`TorchDefault`, `Pretrained`).
        needs_model: the values depend on the whole model, or on data, so it cannot fill a tensor by itself.
    """

    elementwise: ClassVar[bool] = True
    needs_layout: ClassVar[bool] = False
    constant: ClassVar[bool] = False
    complete: ClassVar[bool] = False
    needs_model: ClassVar[bool] = False

    @abstractmethod
    def target_std(self, shape: Shape, fans: Fans | None) -> float | None:
        """Return the population std aimed at in a block of `shape` `(out, in, *kernel)`; None if there is no such."""

    @abstractmethod
    def fill_(self, block: Tensor, fans: Fans | None, generator: torch.Generator | None) -> None:
        """Fill `block` in place. It is float32, float64 or complex; it may be a non-contiguous view."""

    def check(self, shape: Shape, layout: Layout | None) -> None:
        """Raise ValueError if this initializer cannot fill a parameter of `shape` and `layout`."""
        if layout is None:
            if self.needs_layout:
                raise ValueError(
                    f"{self} needs fan_in and fan_out, and they are not known for this parameter; if it is a weight, "
                    "tell them by Rule(fans=Fans(...)) or lightning_init.fans.register"
                )
        elif [sum(block.rows for block in layout.blocks)] != list(shape[:1]):
            rows = ", ".join(str(block.rows) for block in layout.blocks)
            raise ValueError(f"the blocks of the layout ({rows} rows) do not add up to shape {tuple(shape)}")
        elif layout.transposed and len(shape) < 2:
            raise ValueError(f"a transposed layout needs at least 2 dimensions, got shape {tuple(shape)}")
        elif layout.padding_row is not None and not -shape[0] <= layout.padding_row < shape[0]:
            raise ValueError(f"padding_row {layout.padding_row} is outside of shape {tuple(shape)}")

    def on(self, model: nn.Module) -> Initializer:
        """Return the initializer to use on this model: itself, or what a look at the model makes of it.

        Raises:
            ValueError: if it cannot be used on this model, or needs data.
        """
        del model
        return self

    def claims(self, names: Sequence[str]) -> bool:
        """Return whether this parameter is to be asked for, whatever it is to its module (a scale, an unknown one)."""
        del names
        return False

    def resolve(self, module: nn.Module, parameter_name: str, shape: Shape, names: Sequence[str]) -> Initializer | None:
        """Return the initializer of one parameter; None if this one has no value for it.

        Args:
            module: the owner.
            parameter_name: the effective name in the owner (`weight`).
            shape: shape of the effective parameter.
            names: every full name that the parameter has in the model, the effective one first.
        """
        del module, parameter_name, shape, names
        return self

    def reason(self, module: nn.Module, parameter_name: str, shape: Shape, names: Sequence[str]) -> str:
        """Return why `resolve` gives what it gives, to be put behind what the parameter is; empty without a choice."""
        del module, parameter_name, shape, names
        return ""

    def missing(self, name: str) -> str:
        """Return why `resolve` has nothing for the parameter `name`."""
        del name
        return f"{self} has no value for it"

    @property
    def gain(self) -> float | None:
        """What the std is multiplied by for the nonlinearity; None where that has no meaning."""
        return None

    @property
    def drawn_with(self) -> str | None:
        """Name of the parameter whose random numbers this one repeats; None: it has its own."""
        return None

    @property
    def label(self) -> str:
        """The name and the settings that are not the defaults, in short, for tables.

        >>> from lightning_init.initializers import KaimingNormal, Uniform
        >>> KaimingNormal().label, Uniform(-1 / 3, 1 / 3).label
        ('kaiming_normal', 'uniform(low=-0.3333, high=0.3333)')
        """
        settings = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.repr and value != field.default:
                settings.append(f"{field.name}={format(value, '.4g') if isinstance(value, float) else value}")
        return _snake_case(type(self).__name__) + (f"({', '.join(settings)})" if settings else "")

    def to_config(self) -> dict[str, object]:
        """Return the name and the settings as a plain dict, for `initializers.from_config`.

        >>> from lightning_init.initializers import Normal, from_config
        >>> Normal(std=0.02).to_config()
        {'name': 'normal', 'mean': 0.0, 'std': 0.02}
        >>> from_config(Normal(std=0.02).to_config())
        Normal(mean=0.0, std=0.02)
        """
        config: dict[str, object] = {"name": _snake_case(type(self).__name__)}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not (value is None or isinstance(value, (str, float, int))):
                raise TypeError(f"{field.name}={value!r} of {self} has no plain form; use a name or a number")
            config[field.name] = value
        return config

    def with_nonlinearity(self, nonlinearity: Nonlinearity) -> Self:
        """Return this initializer with the gain of `nonlinearity`; itself where the gain has no meaning."""
        del nonlinearity
        return self

    def __call__(
        self, tensor: Tensor, *, layout: Layout | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Fill `tensor` in place and return it, as the functions of `torch.nn.init` do.

        Args:
            tensor: any floating or complex dtype, memory format and device; float16, bfloat16 and float8 are drawn
                in float32 and then cast.
            layout: from `lightning_init.fans.layout`; without it the fans are read off the shape as torch does.
            generator: on the tensor's device; None draws from the global stream.

        Raises:
            ValueError: if the initializer cannot apply, or there is no memory to fill (meta device, lazy parameter);
                `tensor` is then untouched.
            TypeError: if `tensor` is not a floating or complex tensor.
        """
        _check_fillable(tensor)
        if layout is None and self.needs_layout:
            layout = torch_layout(tensor.shape)
        self.check(tensor.shape, layout)
        if tensor.numel() == 0:
            return tensor
        with torch.no_grad():
            direct = tensor.is_contiguous() and tensor.dtype in _DRAWN_AS_IS
            values = (
                tensor if direct else torch.empty(tensor.shape, dtype=_drawn_as(tensor.dtype), device=tensor.device)
            )
            self._fill_blocks(values, layout, generator)
            if layout is not None and layout.padding_row is not None:
                values[layout.padding_row] = 0
            return tensor if direct else tensor.copy_(values)

    def _fill_blocks(self, values: Tensor, layout: Layout | None, generator: torch.Generator | None) -> None:
        if layout is None:
            self.fill_(values, None, generator)
        elif self.elementwise and layout.uniform:
            self.fill_(values, layout.fans, generator)
        else:
            for block, view in zip(layout.blocks, layout.views(values), strict=True):
                self.fill_(view, block.fans, generator)


_DRAWN_AS_IS = (torch.float32, torch.float64, torch.complex64, torch.complex128)


@dataclasses.dataclass(frozen=True)
class WholeModel(Initializer):
    """An initializer that looks at the model, through `on`, and so can fill no tensor by itself."""

    needs_model: ClassVar[bool] = True

    def check(self, shape: Shape, layout: Layout | None) -> None:
        """Refuse: a tensor alone tells nothing of its model."""
        del shape, layout
        self._refuse()

    def target_std(self, shape: Shape, fans: Fans | None) -> None:
        """Return None: every parameter has its own."""

    def fill_(self, block: Tensor, fans: Fans | None, generator: torch.Generator | None) -> None:
        """Refuse, as `check`."""
        del block, fans, generator
        self._refuse()

    @abstractmethod
    def _refuse(self) -> NoReturn:
        """Raise ValueError, saying what to do instead."""


def _drawn_as(dtype: torch.dtype) -> torch.dtype:
    """Sampling and QR need at least float32 (bf16 sampling made a pretraining diverge; bf16 QR does not exist)."""
    if dtype in _DRAWN_AS_IS:
        return dtype
    return torch.complex64 if dtype.is_complex else torch.float32


def _check_fillable(tensor: Tensor) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"an initializer fills a torch.Tensor, got {type(tensor).__name__}")
    if not (tensor.dtype.is_floating_point or tensor.dtype.is_complex):
        raise TypeError(f"an initializer fills floating-point or complex tensors, got {tensor.dtype}")
    if is_lazy(tensor):
        raise ValueError("the parameter of a lazy module has no shape yet: run one forward pass before initializing")
    if tensor.is_meta:
        raise ValueError(
            f"the tensor of shape {tuple(tensor.shape)} is on the meta device and has no memory to fill: "
            "materialise it first (`module.to_empty(device=...)`)"
        )


def _snake_case(class_name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", class_name).lower()


__all__ = ["Fans", "Initializer", "Layout", "Mode", "WholeModel"]
