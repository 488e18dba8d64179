"""Alerts: what in a point's values says that the network does not learn, and what to do about it."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from lightning_init.placement import Place
from lightning_init.signals.gradients import TOTAL
from lightning_init.signals.layers import Layer
from lightning_init.signals.symmetry import symmetric_fraction

Kind: TypeAlias = Literal["non-finite", "vanishing", "exploding", "dead", "saturated", "symmetric", "frozen"]
Values: TypeAlias = npt.NDArray[np.float64]

_FAR = 1e6  # factor between layers beyond which float32 training is known to stall or overflow
_JUMP = 1e3  # factor over the typical gradient norm
_PATIENCE = 3  # points in a row, for what one unlucky batch can cause
_SATURATED = 0.9  # of the largest variance that the bounds allow: nearly all values sit at a bound


@dataclass(frozen=True)
class Alert:
    """Something is wrong with one layer.

    Args:
        kind: what is wrong.
        layer: the layer's name; empty for the whole model.
        step: index of the point, on the axis of the plots.
        figure: the number that gave it away.
        message: all of it in words, with what to do.
    """

    kind: Kind
    layer: str
    step: int
    figure: float
    message: str

    def __str__(self) -> str:
        where = f"{self.layer}: " if self.layer else ""
        return f"step {self.step}, {where}{self.message}"


class AlertError(RuntimeError):
    """Raised by `SignalMonitor(alerts="raise")`; `alert` says why."""

    def __init__(self, alert: Alert) -> None:
        super().__init__(str(alert))
        self.alert = alert


class Watch:
    """Looks at the values of each point; speaks once for each layer and kind.

    It sees what is measured: activation variance, gradient norm and weight variance; a monitor that leaves one of
    them out gets no alerts from it.

    Args:
        layers: of the model, in depth order.

    >>> watch = Watch([Layer("a", nn.Linear(1, 1), {}, ()), Layer("b", nn.Linear(1, 1), {}, ())])
    >>> [str(alert) for alert in watch.check(7, {"gradient_norm/a": float("nan"), "gradient_norm/b": 1.0})]
    ['step 7, a: gradient_norm is nan: lower the learning rate, clip gradients, or look for a log or division by zero']
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        self._layers = {layer.name: layer for layer in layers}
        self._spine = [layer.name for layer in layers if _mixes(layer)]
        self._tags: tuple[str, ...] = ()
        self._rows: dict[str, tuple[list[str], npt.NDArray[np.int64]]] = {}
        self._said: set[tuple[Kind, str]] = set()
        self._streaks: dict[str, dict[str, int]] = {}  # signal -> layer -> how often in a row its figure was zero
        self._typical: float | None = None  # geometric running mean of the total gradient norm

    def check(self, step: int, values: Mapping[str, float], *, scaled: bool = False) -> list[Alert]:
        """Return what is new and wrong in the values of one point.

        Args:
            step: index of the point.
            values: tag -> value.
            scaled: gradients come from AMP's GradScaler, which looks for its scale by letting some overflow.
        """
        self._index(values)
        numbers = np.fromiter(values.values(), np.float64, len(values))
        found: list[Alert] = []
        if not np.isfinite(numbers).all():
            found += self._nonfinite(step, numbers, scaled=scaled)
        found += self._activations(step, numbers)
        found += self._bounded(step, numbers)
        found += self._gradients(step, numbers, values.get(TOTAL, math.nan))
        return found

    def inspect(self, step: int) -> list[Alert]:
        """Return what is wrong with the weights and gradients themselves; slower, so meant for the first point."""
        found: list[Alert] = []
        text = (
            "all units have the same weights and get the same gradient, and so will never differ:"
            " initialize with a random initializer such as he_normal or xavier_uniform"
        )
        for name in self._spine:
            for place in self._layers[name].weights.values():
                if _symmetric(self._layers[name], place):
                    found += self._once("symmetric", name, step, 1.0, text)
        return found

    def untrained(self, step: int, trained: Collection[nn.Parameter]) -> list[Alert]:
        """Return the layers whose parameters want a gradient (`requires_grad`) but are in no optimizer.

        Args:
            step: index of the point.
            trained: the parameters of all optimizers.
        """
        found: list[Alert] = []
        text = (
            "frozen by accident: requires_grad is True and no optimizer has its parameters;"
            " add them in configure_optimizers, or set requires_grad to False"
        )
        for name, layer in self._layers.items():
            wanting = [parameter for parameter in layer.parameters if parameter.requires_grad]
            if wanting and not any(parameter in trained for parameter in wanting):
                found += self._once("frozen", name, step, 0.0, text)
        return found

    def _index(self, values: Mapping[str, float]) -> None:
        tags = tuple(values)
        if tags == self._tags:
            return
        self._tags = tags
        places = {tag: place for place, tag in enumerate(tags)}
        for family, names in (
            ("activation_variance", self._spine),
            ("gradient_norm", self._spine),
            ("bounded", [name for name, layer in self._layers.items() if _largest_variance(layer.module)]),
        ):
            tag = "activation_variance" if family == "bounded" else family
            present = [name for name in names if f"{tag}/{name}" in places]
            self._rows[family] = present, np.array([places[f"{tag}/{name}"] for name in present], np.int64)

    def _nonfinite(self, step: int, numbers: Values, *, scaled: bool) -> Iterator[Alert]:
        for place in np.flatnonzero(~np.isfinite(numbers)):
            series, _, name = self._tags[place].partition("/")
            if "kurtosis" in series or (scaled and series.startswith("gradient")):
                continue
            text = (
                f"{series} is {numbers[place]}: lower the learning rate, clip gradients,"
                " or look for a log or division by zero"
            )
            yield from self._once("non-finite", name, step, numbers[place], text)

    def _activations(self, step: int, numbers: Values) -> Iterator[Alert]:
        names, rows = self._rows["activation_variance"]
        variances = numbers[rows]
        if len(names) > 1 and np.isfinite(variances).all():
            before = np.maximum.accumulate(variances)
            text = "its output is the same number everywhere: the layer is dead or its weights are zero;" + _RANDOM
            yield from self._zeros(step, "activation", [names[i] for i in np.flatnonzero(variances == 0)], text)
            for i in np.flatnonzero((variances * _FAR < before) & (variances > 0)).tolist():
                factor = float(before[i] / variances[i]) ** (0.5 / max(i, 1))
                text = (
                    f"activation variance vanishes: {variances[i]:.2g}, and {before[i]:.2g} in a layer before it;"
                    f" about {factor:.2g} times the gain, or he_normal, keeps it, and so does normalization"
                )
                yield from self._once("vanishing", names[i], step, variances[i], text)
            start = max(float(variances[0]), 1.0)
            for i in np.flatnonzero(variances > _FAR * start).tolist():
                factor = (start / float(variances[i])) ** (0.5 / max(i, 1))
                text = (
                    f"activation variance explodes: {variances[i]:.2g}, from {variances[0]:.2g} in the first layer;"
                    f" about {factor:.2g} times the gain, or xavier_uniform, keeps it, and so does normalization"
                )
                yield from self._once("exploding", names[i], step, variances[i], text)

    def _bounded(self, step: int, numbers: Values) -> Iterator[Alert]:
        names, rows = self._rows["bounded"]
        for name, variance in zip(names, numbers[rows], strict=True):
            largest = _largest_variance(self._layers[name].module)
            if largest and variance > _SATURATED * largest:
                text = (
                    f"nearly all outputs sit at the bounds (variance {variance:.3g} of at most {largest:.3g}), where"
                    " the gradient is zero: use a smaller gain in front of it, such as xavier_uniform"
                )
                yield from self._once("saturated", name, step, float(variance), text)

    def _gradients(self, step: int, numbers: Values, total: float) -> Iterator[Alert]:
        names, rows = self._rows["gradient_norm"]
        norms = numbers[rows]
        if len(names) > 1 and np.isfinite(norms).all():
            largest = float(norms.max())
            for i in np.flatnonzero((norms * _FAR < largest) & (norms > 0)):
                text = (
                    f"gradient norm vanishes: {norms[i]:.2g}, and {largest:.2g} elsewhere; initialize so that the"
                    " variance holds from layer to layer (he_normal for ReLU, xavier_uniform or orthogonal for tanh),"
                    " or add normalization or residual connections"
                )
                yield from self._once("vanishing", names[i], step, float(norms[i]), text)
            text = "no gradient reaches it: the layer or all that follows is dead or zero;" + _RANDOM
            yield from self._zeros(step, "gradient", [names[i] for i in np.flatnonzero(norms == 0)], text)
        if math.isfinite(total) and total > 0:
            if self._typical is not None and total > _JUMP * self._typical and total > 1.0:
                text = (
                    f"gradient norm of the whole model explodes: {total:.2g}, {total / self._typical:.2g} times what"
                    " is usual here; clip gradients (gradient_clip_val) or lower the learning rate"
                )
                yield from self._once("exploding", "", step, total, text)
            self._typical = total if self._typical is None else self._typical**0.95 * total**0.05

    def _zeros(self, step: int, signal: str, names: list[str], text: str) -> Iterator[Alert]:
        """Speak of the layers whose figure was zero at several points in a row."""
        before = self._streaks.get(signal, {})
        self._streaks[signal] = streaks = {name: before.get(name, 0) + 1 for name in names}
        for name, points in streaks.items():
            if points == _PATIENCE:
                yield from self._once("dead", name, step, 0.0, text)

    def _once(self, kind: Kind, name: str, step: int, figure: float, text: str) -> Iterator[Alert]:
        if (kind, name) not in self._said:
            self._said.add((kind, name))
            yield Alert(kind, name, step, float(figure), text)


_LOOK_UPS = (nn.Embedding, nn.EmbeddingBag)  # the rows are entries, most of them without a gradient
_RANDOM = " initialize with he_normal (ReLU) or xavier_uniform, and lower the learning rate if it died in training"


def _symmetric(layer: Layer, place: Place) -> bool:
    """Return whether all units of the weight are copies of each other and stay so."""
    gradient = place.parameter.grad
    weight = _here(place.parameter.detach())
    if place.kind != "direct" or weight.ndim < 2 or weight.shape[0] < 2 or isinstance(layer.module, _LOOK_UPS):
        return False
    if gradient is None or gradient.layout is not torch.strided or weight.layout is not torch.strided:
        return False
    return symmetric_fraction(weight.flatten(1), _here(gradient.detach()).flatten(1)) == 1.0


def _here(values: Tensor) -> Tensor:
    """Return the rows that are here, of a tensor that is divided among ranks."""
    return values.to_local() if isinstance(values, DTensor) else values


def _mixes(layer: Layer) -> bool:
    """Return whether the layer has a weight of at least two dimensions: the others (normalization) are no depth."""
    return any(place.kind != "direct" or place.parameter.ndim > 1 for place in layer.weights.values())


def _largest_variance(module: nn.Module) -> float | None:
    """Return the variance of a bounded nonlinearity whose outputs all sit at its two bounds."""
    if isinstance(module, (nn.Tanh, nn.Softsign)):
        return 1.0
    if isinstance(module, (nn.Sigmoid, nn.Hardsigmoid)):
        return 0.25
    return None
