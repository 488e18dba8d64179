"""Alerts: what in a point's values says that the network does not learn, and what to do about it."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from torch import nn

from lightning_init.placement import Place
from lightning_init.signals.gradients import TOTAL
from lightning_init.signals.layers import Layer
from lightning_init.signals.spine import Spine
from lightning_init.signals.symmetry import look_at

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
        self._tags: tuple[str, ...] = ()
        self._rows: dict[str, tuple[list[str], npt.NDArray[np.int64]]] = {}
        # the tags of layers that are compared with each other, and of these the ones not known to vanish
        self._compared: list[tuple[list[str], list[str]]] = []
        self._limits: list[tuple[str, float]] = []  # tags of bounded nonlinearities, and where they are saturated
        self._said: set[tuple[Kind, str]] = set()
        self._streaks: dict[str, dict[str, int]] = {}  # signal -> layer -> how often in a row its figure was zero
        self._rising: dict[str, set[str]] = {}  # signal -> layers that began at zero and are still far below the others
        self._looks: set[int] = set()  # the steps at which `inspect` looked
        self._moving = False  # whether it saw a weight whose units differ
        self._typical: float | None = None  # geometric running mean of the total gradient norm

    @cached_property
    def _spine(self) -> Spine:  # when first asked: lazy modules have shapes by then
        return Spine([*self._layers.values()])

    @cached_property
    def _unsettled(self) -> list[tuple[str, Place]]:
        return [(name, one) for name in self._spine.mixing for one in self._layers[name].weights.values()]

    def check(
        self,
        step: int,
        values: Mapping[str, float],
        *,
        scaled: bool = False,
        lone: Callable[[], Collection[str]] = tuple,
    ) -> list[Alert]:
        """Return what is new and wrong in the values of one point.

        Args:
            step: index of the point.
            values: tag -> value.
            scaled: gradients come from AMP's GradScaler, which looks for its scale by letting some overflow.
            lone: gives the tags of activations that were a single number, whose variance says nothing.
        """
        self._index(values)
        total = values.get(TOTAL, math.nan)
        if self._is_calm(values, total):
            self._expect(total)
            return []
        numbers = np.fromiter(values.values(), np.float64, len(values))
        found: list[Alert] = []
        if not np.isfinite(numbers).all():
            found += self._nonfinite(step, numbers, scaled=scaled)
        found += self._activations(step, numbers, lone)
        found += self._bounded(step, numbers)
        if total != 0 or self._typical is None or _any_constant(values):  # otherwise the loss is content (a margin)
            found += self._gradients(step, numbers, total)
        return found

    def inspect(self, step: int) -> list[Alert]:
        """Return which weights are symmetric; slower, so meant for the first points, as long as there is `more`.

        Where a weight of copies gets no gradient, a later step may tell its units apart: behind a head of zeros
        everything waits for its turn. It is spoken of at once where no other weight is there to begin, and otherwise
        after three points.
        """
        self._looks.add(step)
        looks = [(name, place, look_at(self._layers[name], place)) for name, place in self._unsettled]
        self._moving |= any(look == "different" for _, _, look in looks)
        spoken = {"alike"} if self._moving and len(self._looks) < _PATIENCE else {"alike", "stuck"}
        self._unsettled = [(name, one) for name, one, look in looks if look in ("stuck", "unknown")]
        text = (
            "all units have the same weights and get the same gradient, and so will never differ:"
            " initialize with a random initializer such as he_normal or xavier_uniform"
        )
        return [
            alert
            for name, _, look in looks
            if look in spoken
            for alert in self._once("symmetric", name, step, 1.0, text)
        ]

    @property
    def more(self) -> bool:
        """Whether there are weights left that `inspect` could say something of."""
        return len(self._looks) < _PATIENCE and bool(self._unsettled)

    def untrained(self, step: int, trained: Collection[nn.Parameter]) -> list[Alert]:
        """Return the layers with parameters that get a gradient but are in no optimizer.

        Copies that are only looked at (target networks, averages) get none, whatever their `requires_grad` says.

        Args:
            step: index of the point.
            trained: the parameters of all optimizers.
        """
        found: list[Alert] = []
        for name, layer in self._layers.items():
            missing = [one for one in layer.parameters if one.grad is not None and one not in trained]
            if missing:
                names = [key for key, one in layer.module.named_parameters() if any(one is other for other in missing)]
                text = (
                    f"frozen by accident: {', '.join(names) or 'a parameter'} gets a gradient (requires_grad is True)"
                    " and is in no optimizer; add it in configure_optimizers, or set requires_grad to False"
                )
                found += self._once("frozen", name, step, 0.0, text)
        return found

    def _index(self, values: Mapping[str, float]) -> None:
        tags = tuple(values)
        if tags == self._tags:
            return
        self._tags = tags
        places = {tag: place for place, tag in enumerate(tags)}
        for family, names in (
            ("activation_variance", self._spine.chain),
            ("gradient_norm", self._spine.mixing),
            ("bounded", self._spine.bounded),
        ):
            tag = "activation_variance" if family == "bounded" else family
            present = [name for name in names if f"{tag}/{name}" in places]
            self._rows[family] = present, np.array([places[f"{tag}/{name}"] for name in present], np.int64)
        self._compared = [
            (
                [tags[row] for row in rows],
                [tags[row] for name, row in zip(names, rows, strict=True) if self._judges(name)],
            )
            for family, (names, rows) in self._rows.items()
            if family != "bounded" and len(names) > 1
        ]
        self._limits = [
            (f"activation_variance/{name}", _SATURATED * self._spine.bounded[name]) for name in self._rows["bounded"][0]
        ]

    def _is_calm(self, values: Mapping[str, float], total: float) -> bool:
        """Return whether nothing at all can be wrong, as at nearly every point of a healthy training; in few steps."""
        if self._typical is None or any(self._streaks.values()) or any(self._rising.values()):
            return False
        if not (0 < total <= max(_JUMP * self._typical, 1.0) and math.isfinite(sum(values.values()))):
            return False
        for tags, judged in self._compared:
            figures = [values[tag] for tag in tags]
            smallest = min([values[tag] for tag in judged], default=math.inf)
            if not (min(figures) > 0 and max(figures) < _FAR * min(smallest, max(figures[0], 1.0))):
                return False
        return all(values[tag] <= limit for tag, limit in self._limits)

    def _judges(self, name: str) -> bool:
        """Return whether it has not said yet that the layer vanishes."""
        return ("vanishing", name) not in self._said

    def _expect(self, total: float) -> None:
        self._typical = total if self._typical is None else self._typical**0.95 * total**0.05

    def _nonfinite(self, step: int, numbers: Values, *, scaled: bool) -> Iterator[Alert]:
        for place in np.flatnonzero(~np.isfinite(numbers)):
            series, _, name = self._tags[place].partition("/")
            if "kurtosis" in series or (scaled and series.startswith("gradient")):
                continue
            if series == "update_ratio" and numbers[place] == math.inf:
                continue  # the first change of a weight of zeros
            text = (
                f"{series} is {numbers[place]}: lower the learning rate, clip gradients,"
                " or look for a log or division by zero"
            )
            yield from self._once("non-finite", name, step, numbers[place], text)

    def _activations(self, step: int, numbers: Values, lone: Callable[[], Collection[str]]) -> Iterator[Alert]:
        names, rows = self._rows["activation_variance"]
        variances = numbers[rows]
        if len(names) > 1 and np.isfinite(variances).all():
            zero = [names[i] for i in np.flatnonzero(variances == 0)]
            if zero:
                single = lone()
                zero = [name for name in zero if f"activation_variance/{name}" not in single]
            text = "its output is the same number everywhere: the layer is dead or its weights are zero;" + _RANDOM
            yield from self._zeros(step, "activation", zero, text)
            before = np.maximum.accumulate(variances)
            if (variances * _FAR < before).any():
                before = self._before(names, variances)
            for i in self._far_below("activation", names, variances, before):
                stretch = self._spine.stretch[names[i]]
                depth = sum(self._spine.stretch[name] == stretch for name in names[:i])
                factor = float(before[i] / variances[i]) ** (0.5 / max(depth, 1))
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
            largest = self._spine.bounded[name]
            if variance > _SATURATED * largest and (step == 0 or name not in self._spine.outputs):
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
            for i in self._far_below("gradient", names, norms, largest):
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
            self._expect(total)

    def _before(self, names: list[str], variances: Values) -> Values:
        """Return for each layer the largest variance up to it since the last normalization."""
        apart = 1e4 * np.array([self._spine.stretch[name] for name in names])  # further than logarithms reach
        with np.errstate(divide="ignore"):
            found: Values = np.exp(np.maximum.accumulate(np.log(variances) + apart) - apart)
        return found

    def _far_below(self, signal: str, names: list[str], figures: Values, others: Values | float) -> list[int]:
        """Return where a figure lies far below the others, and nothing was said of it.

        Not of those that began at exactly zero, as heads and branches of zeros and all behind them do on purpose:
        these are on their way up, and are judged from when they have arrived.
        """
        far = figures * _FAR < others
        if signal not in self._rising:
            self._rising[signal] = {names[i] for i in np.flatnonzero(figures == 0)}
        rising = self._rising[signal]
        if rising:
            rising -= {names[i] for i in np.flatnonzero(~far & (figures > 0))}
        places = np.flatnonzero(far & (figures > 0)).tolist()
        return [i for i in places if self._judges(names[i]) and names[i] not in rising]

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
            for _, judged in self._compared if kind == "vanishing" else ():
                judged[:] = [tag for tag in judged if tag.partition("/")[2] != name]
            yield Alert(kind, name, step, float(figure), text)


def _any_constant(values: Mapping[str, float]) -> bool:
    """Return whether a layer, such as a dead ReLU behind the last one, gives the same number everywhere."""
    return any(value == 0 for tag, value in values.items() if tag.startswith("activation_variance/"))


_RANDOM = " initialize with he_normal (ReLU) or xavier_uniform, and lower the learning rate if it died in training"
