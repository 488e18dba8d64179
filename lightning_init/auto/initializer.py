"""`Auto`: an initializer that looks at the whole model, chooses for every layer by theory, and says why."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NoReturn

import torch
from torch import Tensor, nn
from typing_extensions import Self

from lightning_init._names import clean
from lightning_init._running import Call, call_of, tensors
from lightning_init.auto.choice import Choice, choices
from lightning_init.auto.structure import structure
from lightning_init.calibration.base import Adjustment, Calibration, Progress, Unit
from lightning_init.calibration.walk import Again, variance, walk
from lightning_init.fans import Fans, Shape
from lightning_init.gains import exact
from lightning_init.initializers.base import Initializer
from lightning_init.initializers.distributions import Normal
from lightning_init.initializers.orthogonal import Orthogonal
from lightning_init.initializers.variance_scaling import LecunNormal, VarianceScaling
from lightning_init.rules import InitializerLike
from lightning_init.tracing import Follower, dataflow, followers


@dataclass(frozen=True)
class Auto(Calibration):
    """Choose for every layer by theory, from the data flow of the model itself; the report says what and why.

    - In a chain of at least five layers without normalization the weights are scaled isometries. What is odd (tanh) or
      odd but for its mean (sigmoid) gets the gain that keeps the largest variance at which gradients survive the whole
      depth; in front of all others units come in pairs u and -u, of which the next layer sees the odd part:
      f(u) - f(-u), exactly linear for relu, leaky_relu, gelu, silu and softplus (`LooksLinear`, `auto.theory`).
    - Other layers get independent weights with the exact gain of what stands in front: 1 behind a normalization.
    - Residual branches end with 1 / sqrt(number of residual additions): the stream's variance at most doubles
      (Radford et al. 2019; Zhang et al. 2019, section 2 for why it must shrink with depth).
    - Embeddings are standard normal; recurrent weights are orthogonal, their inputs 1 / fan_in; biases are zero.

    Where the forward cannot be followed, a warning says so, and layers get the gain of what is known to follow them.

    Args:
        batch: to follow the data through the model, for the scale of the inputs, and to correct the weights: as
            `lightning_init.diagnose` takes it. `example_input_array` is used without, but for the correction.
        correct: whether each weight is scaled once more until its layer has its planned variance on the batch: what
            averages and paddings do to it no theory knows. None: if there is a batch; True without one takes it from
            `calibrate` or the Trainer, as LSUV does.

    Raises:
        ValueError: on use by `initialize`, if `correct` is True and there is no batch.

    >>> from lightning_init import initialize
    >>> model = nn.Sequential(*[part for _ in range(50) for part in (nn.Linear(64, 64), nn.GELU())])
    >>> report = initialize(model, "auto", seed=0)
    >>> print(report.entries[2].why)  # doctest: +NORMALIZE_WHITESPACE
    Linear weight: pairs show the odd part of gelu: gain 1.414, variance 1 and gradients (x 1.0000 per layer) are kept;
    chain of 50 layers: isometry, units in pairs u and -u (traced)
    >>> x = torch.randn(8, 64)
    >>> bool(model[:-1](x).var() / model[0](x).var() > 0.9)
    True
    """

    batch: object = field(default=None, repr=False, compare=False)
    correct: bool | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.correct, (bool, type(None))):
            raise TypeError(f"correct of Auto must be True, False or None, got {self.correct!r}")

    @property
    def needs_data(self) -> bool:
        """Whether it is a calibration."""
        return self.batch is not None if self.correct is None else self.correct

    @property
    def brings(self) -> tuple[object, ...]:
        """Its batch."""
        return () if self.batch is None else (self.batch,)

    @property
    def start(self) -> InitializerLike:
        """The same without correction."""
        return replace(self, correct=False)

    def seeing(self, batch: object) -> Self:
        """Return the same with this batch to look at, if it has none; that alone corrects nothing."""
        return self if self.batch is not None else replace(self, batch=batch, correct=bool(self.correct))

    def _refuse(self) -> NoReturn:
        if self.needs_data and not self.brings:
            super()._refuse()
        raise ValueError("auto looks at the whole model: make it the initializer, not that of a rule or a tensor")

    def on(self, model: nn.Module) -> Initializer:
        """Return what was chosen for `model`."""
        if self.needs_data and not self.brings:
            self._refuse()
        return _chosen(model, self.batch)

    def adjust(
        self, model: nn.Module, calls: Sequence[Call], units: Sequence[Unit], progress: Progress
    ) -> list[Adjustment]:
        """Scale each layer until its output has the variance that was planned for it, in one pass."""
        call = calls[0]
        planned = _chosen(model, dict(call.kwargs) or call.args).choices

        def settle(unit: Unit, output: Tensor, again: Again) -> Adjustment:
            choice = planned.get(unit.place.module_name)  # attention is scaled at its out_proj
            before = variance(output)
            if not math.isfinite(before):
                raise ValueError(f"layer {unit.layer}: its output is not finite, so no factor gives it a variance")
            if choice is None or before == 0:
                why = "kept: its output is constant" if choice else "kept: no variance was planned"
                return Adjustment(unit.layer, unit.place.name, None, before, before, 0, why)
            factor = math.sqrt(choice.variance / before)
            unit.place.write_(unit.place.read() * factor)
            after = variance(again())
            why = f"output variance {before:.4g} -> {after:.4g} by a factor {factor:.4g}"
            return Adjustment(unit.layer, unit.place.name, factor, before, after, 1, why)

        return walk(model, call, units, settle, progress)


@dataclass(frozen=True)
class Chosen(Initializer):
    """What `Auto` makes of one model."""

    choices: Mapping[str, Choice]
    how: str

    def resolve(self, module: nn.Module, parameter_name: str, shape: Shape, names: Sequence[str]) -> Initializer | None:
        """Return the initializer of one weight."""
        return self._choice(module, parameter_name, shape, names)[0]

    def reason(self, module: nn.Module, parameter_name: str, shape: Shape, names: Sequence[str]) -> str:
        """Return what was found around it."""
        why = self._choice(module, parameter_name, shape, names)[1]
        return f": {why} ({self.how})"

    def _choice(
        self, module: nn.Module, parameter_name: str, shape: Shape, names: Sequence[str]
    ) -> tuple[Initializer, str]:
        chosen = self.choices.get(names[0].rpartition(".")[0])
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
            tied = len(names) > 1
            std = 1 / math.sqrt(shape[1]) if tied else 1.0
            return Normal(std=std), f"embedding{', tied with a layer' if tied else ''}: std {std:.3g}"
        if "weight_hh" in parameter_name:
            return Orthogonal(), "recurrent: orthogonal"
        if chosen is None or not parameter_name.startswith("weight"):
            return LecunNormal(), "nothing is known in front of it: gain 1"
        return chosen.initializer, chosen.why

    def target_std(self, shape: Shape, fans: Fans | None) -> None:
        """Return None: every weight has its own."""

    def fill_(self, block: Tensor, fans: Fans | None, generator: torch.Generator | None) -> None:
        """Refuse: a weight has its own initializer."""
        del block, fans, generator
        raise ValueError("each weight has an initializer of its own: resolve it first")


def _chosen(model: nn.Module, batch: object) -> Chosen:
    walk, how = dataflow(model, _arguments(model, batch))
    if walk is None:
        cure = "give a batch, Auto(batch=...), or set example_input_array"
        cure = cure if batch is None else "give a batch that its forward takes"
        warnings.warn(
            f"auto cannot follow the data flow of {type(model).__name__} ({how}), so every layer gets the gain of what "
            f"is registered behind it: {cure}",
            stacklevel=5,
        )
        return Chosen({name: _guess(one) for name, one in followers(model).items()}, "not followed")
    values = _input(model, batch)
    square = None if values is None else float(values.square().mean()) or None
    found = choices(structure(walk), square, None if values is None else _shared(values))
    return Chosen({clean(name, model): choice for name, choice in found.items()}, how)


def _guess(follower: Follower) -> Choice:
    gain = 1.0 if follower.nonlinearity is None else exact(follower.nonlinearity).forward
    return Choice(VarianceScaling(gain**2, "fan_in", "normal"), follower.reason, 1.0)


def _arguments(model: nn.Module, batch: object) -> object:
    """Return the arguments of `forward` in a batch, which may hold targets too."""
    if batch is None:
        return None
    call = call_of(model, batch)
    return dict(call.kwargs) if call.kwargs else call.args


def _input(model: nn.Module, batch: object) -> Tensor | None:
    """Return the first floating-point input in float64, if there is a batch or an example of one."""
    if batch is None:
        batch = getattr(model, "example_input_array", None)
    if batch is None:
        return None
    call = call_of(model, batch)
    values = next((t for t in tensors([*call.args, *call.kwargs.values()]) if t.is_floating_point()), None)
    return None if values is None else values.double()


def _shared(values: Tensor) -> float | None:
    """Return what neighbours in images `(batch, channels, *size)` have in common; None for other inputs.

    >>> _shared(torch.ones(1, 1, 4, 4)), _shared(torch.ones(4, 4))
    (1.0, None)
    """
    square = float(values.square().mean())
    if values.ndim < 3 or values.shape[-1] < 2 or not square:
        return None
    return min(max(float((values[..., 1:] * values[..., :-1]).mean()) / square, 0.0), 1.0)
