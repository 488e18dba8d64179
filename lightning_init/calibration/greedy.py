"""Greedy layer-wise pretraining: each hidden layer learns, without labels, to represent what the layers below it give.

The seed of the field: Hinton, Osindero & Teh 2006; Bengio, Lamblin, Popovici & Larochelle 2007, Greedy layer-wise
training of deep networks, algorithm 1. How a layer learns is the subclass's; which do, and from what, is decided here.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lightning_init._running import Call, tensors
from lightning_init.apply import population_std
from lightning_init.calibration.base import Adjustment, Calibration, Progress, Unit, hooked, run
from lightning_init.initializers._checks import number
from lightning_init.nonlinearities import Nonlinearity
from lightning_init.rules import InitializerLike
from lightning_init.tracing import followers


class Learned(NamedTuple):
    """What a layer has learned.

    Args:
        weight: (out, in).
        bias: (out,).
        before: its error of reconstruction at the start, per value, over the variance of the values.
        after: the same at the end.
    """

    weight: Tensor
    bias: Tensor
    before: float
    after: float


@dataclass(frozen=True)
class Greedy(Calibration):
    """Trains the hidden `nn.Linear` layers one after the other, from the first; the output layer stays as started.

    Args:
        batches: how many batches to learn from, at most; they are kept in memory.
        epochs: how often each layer sees them.
        learning_rate: of the layer's own training.
        initializer: what the weights start from.

    Raises:
        ValueError, TypeError: for settings out of range.
    """

    batches: int = 200
    epochs: int = 5
    learning_rate: float = 1e-3
    initializer: InitializerLike = "xavier_uniform"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("batches", "epochs"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{name} of {type(self).__name__} must be a whole number, got {value!r}")
            if value < 1:
                raise ValueError(f"{name} of {type(self).__name__} must be at least 1, got {value}")
        number(self, "learning_rate", above=0)

    @property
    def start(self) -> InitializerLike:
        """The initializer that the weights get first."""
        return self.initializer

    @property
    def takes(self) -> int:
        """How many batches it looks at, at most."""
        return self.batches

    @abstractmethod
    def learn(
        self, layer: str, weight: Tensor, bias: Tensor, inputs: Sequence[Tensor], nonlinearity: Nonlinearity
    ) -> Learned:
        """Return what a layer has learned.

        Args:
            layer: its name, for errors.
            weight: (out, in), what it starts from.
            bias: (out,), the same; it has to stay as it is where the layer has none.
            inputs: minibatches (n, in).
            nonlinearity: that follows the layer.
        """

    def adjust(
        self, model: nn.Module, calls: Sequence[Call], units: Sequence[Unit], progress: Progress
    ) -> list[Adjustment]:
        """Train each layer on what those before it, trained, make of the data."""
        following = followers(model, calls[0].args)
        done: list[Adjustment] = []
        last = max((index for index, unit in enumerate(units) if unit.calls), default=-1)
        for index, unit in enumerate(units):
            found = following.get(unit.layer)
            nonlinearity = None if found is None else found.nonlinearity
            reason = unit.skip or _unfit(unit, nonlinearity, output=index == last)
            if reason:
                done.append(Adjustment(unit.layer, unit.place.name, None, None, None, 0, f"kept: {reason}"))
            else:
                assert nonlinearity is not None
                done.append(self._train(model, calls, unit, nonlinearity))
            progress(unit.layer, index + 1, len(units))
        if units and all(one.factor is None for one in done):
            raise ValueError(
                f"{type(self).__name__} has no layer to train: it trains hidden nn.Linear layers that a nonlinearity "
                f"follows; {done[0].parameter} is {done[0].why}"
            )
        return done

    def _train(self, model: nn.Module, calls: Sequence[Call], unit: Unit, nonlinearity: Nonlinearity) -> Adjustment:
        inputs = [_input_of(unit, model, call) for call in calls]
        weight = unit.place.read().float()
        bias = weight.new_zeros(len(weight)) if unit.bias is None else unit.bias.read().float()
        learned = self.learn(unit.layer, weight, bias, inputs, nonlinearity)
        if not bool(learned.weight.isfinite().all()):
            raise ValueError(f"layer {unit.layer}: its training diverged; lower learning_rate={self.learning_rate}")
        std = population_std(weight)
        before, after = (_variance(inputs[0], *pair) for pair in ((weight, bias), (learned.weight, learned.bias)))
        unit.place.write_(learned.weight.to(unit.place.parameter.dtype))
        if unit.bias is not None:
            unit.bias.write_(learned.bias.to(unit.bias.parameter.dtype))
        steps = self.epochs * len(inputs)
        why = f"reconstruction error {learned.before:.3g} -> {learned.after:.3g} of the variance in {steps} steps"
        factor = population_std(learned.weight) / std if std else float("inf")
        return Adjustment(unit.layer, unit.place.name, factor, before, after, steps, why)


def minibatches(inputs: Sequence[Tensor], epochs: int) -> Iterator[Tensor]:
    """Yield every minibatch once per epoch, in a new order each time."""
    for _ in range(epochs):
        for index in torch.randperm(len(inputs)).tolist():
            yield inputs[index]


def error(reconstruct: Callable[[Tensor], Tensor], inputs: Sequence[Tensor]) -> float:
    """Return the mean squared error of reconstructing the first ten minibatches, over their variance."""
    with torch.no_grad():
        some = torch.cat(list(inputs[:10]))
        return float((reconstruct(some) - some).square().mean() / some.var(correction=0).clamp_min(1e-12))


def is_probability(inputs: Sequence[Tensor]) -> bool:
    """Return whether all values lie in [0, 1], so that they can be read as probabilities."""
    return all(bool(((part >= 0) & (part <= 1)).all()) for part in inputs)


def _unfit(unit: Unit, nonlinearity: Nonlinearity | None, *, output: bool) -> str:
    """Return why a layer is not pretrained; empty if it can be."""
    if not isinstance(unit.module, nn.Linear):
        return "not an nn.Linear"
    if output:
        return "the output layer, which learns from labels alone"
    if nonlinearity is None:
        return "no nonlinearity is known to follow it"
    return "" if unit.calls == 1 else f"runs {unit.calls} times"


def _input_of(unit: Unit, model: nn.Module, call: Call) -> Tensor:
    """Return what reaches a layer, (n, in)."""
    seen: list[Tensor] = []

    def note(_module: nn.Module, args: tuple[object, ...]) -> None:
        seen.append(next(tensors(args)).detach().float())

    with hooked([unit.module.register_forward_pre_hook(note)]):
        run(model, call)
    values = seen[0].reshape(-1, seen[0].shape[-1])
    if not bool(values.isfinite().all()):
        raise ValueError(f"layer {unit.layer}: its input is not finite")
    return values


def _variance(values: Tensor, weight: Tensor, bias: Tensor) -> float:
    return float(nn.functional.linear(values, weight, bias).double().var(correction=0))
