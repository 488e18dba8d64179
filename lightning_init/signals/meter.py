"""The meter: what is seen of one layer during the forward and the backward pass of a depth profile."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from statistics import fmean

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from lightning_init._running import tensors
from lightning_init.fans import Layout, layout
from lightning_init.gains import exact
from lightning_init.parameter_roles import role_of
from lightning_init.placement import Place
from lightning_init.signals import fast
from lightning_init.signals.expectation import Expectation, Expected, gaussian, has_rule, through
from lightning_init.signals.layers import Layer, first_tensor
from lightning_init.signals.profile import LayerProfile
from lightning_init.signals.statistics import Summary, pooled, summarize
from lightning_init.signals.symmetry import symmetric_fraction
from lightning_init.signals.tap import in_backward

_CENTRED = 0.05  # largest share of a layer's output power that may stem from the mean of its weights
_BOUNDS: dict[type[nn.Module], tuple[float, float]] = {
    nn.Tanh: (-1.0, 1.0),
    nn.Softsign: (-1.0, 1.0),
    nn.Sigmoid: (0.0, 1.0),
    nn.Hardsigmoid: (0.0, 1.0),
}


class Meter:
    """Watches one layer: its input, its output, and the gradient at its output.

    Args:
        layer: to be watched, while `watching` has its hooks attached.
        gradients: whether to see the gradient at its output as well.

    Attributes:
        order: when the layer was first called; 0 if it never was.
    """

    def __init__(self, layer: Layer, *, gradients: bool = True) -> None:
        self.layer = layer
        self.gradients = gradients
        self.order = 0
        self.place, self.layout = _mixing_weight(layer)
        self.spine = self.place is not None
        self.inputs: list[Summary] = []
        self.outputs: list[Summary] = []
        self.before: list[Expected | None] = []
        self.predicted: float | None = None
        self.front: Expected | None = None
        self.alive: list[Tensor] = []  # units that were not zero, per call: a ReLU may serve several layers
        self.reached: Tensor | None = None  # units that got a gradient
        self.energy: float | None = None

    def enter(self, expectation: Expectation, args: tuple[object, ...]) -> None:
        """Note what comes in; an in-place module overwrites it."""
        values = first_tensor(args)
        known = None if values is None else expectation.known(values)
        if values is not None and values.numel() and self.spine:  # an expert may get none of the samples
            self.inputs.append(summary_of(values))
            if known is None or known.square is None:  # theory starts anew from what is measured
                square = mean_square(self.inputs[-1])
                known = Expected(square, known.front if known else None, known.label if known else None)
        self.before.append(known)

    def leave(self, expectation: Expectation, output: object, order: int) -> None:
        """Note what comes out, and arrange for the gradient to be seen."""
        self.order = self.order or order
        values = first_tensor(output)
        before = self.before.pop() if self.before else None
        if values is None or not values.numel():
            return
        self.outputs.append(_output_summary(values, _bounds(self.layer.module)))
        if self.spine:
            self.front = self.front or before
            expectation.tell(values, self._predict(before))
        elif has_rule(self.layer.module):
            self.alive.append(_nonzero_units(self.layer.module, values))
            expectation.tell(values, through(self.layer.module, before))
        if self.gradients and values.requires_grad:
            values.register_hook(self._on_gradient)  # type: ignore[no-untyped-call]

    def _predict(self, before: Expected | None) -> Expected | None:
        assert self.place is not None
        if not isinstance(self.layer.module, (nn.Linear, _ConvNd)) or before is None or before.square is None:
            return None
        square = _output_square(self.layer.module, self.place, self.layout, before.square)
        self.predicted = square if self.predicted is None else self.predicted
        return None if square is None else gaussian(square)

    def _on_gradient(self, gradient: Tensor) -> None:
        found = summary_of(gradient)
        self.energy = (self.energy or 0.0) + mean_square(found) * found.number
        if self.spine:
            reached = _nonzero_units(self.layer.module, gradient)
            same = self.reached is not None and self.reached.shape == reached.shape
            self.reached = self.reached | reached if same and self.reached is not None else reached

    def profile(self, gradients: dict[nn.Parameter, Tensor]) -> LayerProfile:
        """Return what was seen."""
        output = pooled(self.outputs)
        fan_in = self.layout.fans.fan_in if self.layout else None
        own = [gradients[parameter] for parameter in self.layer.parameters if parameter in gradients]
        units = self.reached if self.spine else torch.cat(self.alive) if self.alive else None
        weight = _std(self.place.read()) if self.place else None
        return LayerProfile(
            name=self.layer.name,
            kind=type(self.layer.module).__name__,
            spine=self.spine,
            fan_in=fan_in,
            front=self.front.label if self.front else None,
            weight_std=weight,
            target_std=_target_std(self.front, fan_in) if self.spine else None,
            input_square=mean_square(pooled(self.inputs)) if self.inputs else None,
            activation_variance=output.m2 / output.number if output.number else None,
            predicted_variance=self.predicted if self.spine else None,
            gradient_norm=math.sqrt(sum(_energy(one) for one in own)) if own else None,
            gradient_energy=self.energy,
            dead=None if units is None else 1 - float(units.double().mean()),
            saturated=output.saturated / output.number if output.number and _bounds(self.layer.module) else None,
            symmetric=self._symmetric(gradients),
            nonfinite=int(output.nonfinite),
        )

    def _symmetric(self, gradients: dict[nn.Parameter, Tensor]) -> float | None:
        """Return the share of the units that are copies of another, weights, bias and gradients alike."""
        if self.place is None or self.layout is None or self.place.kind != "direct":
            return None
        weight = self.place.parameter
        if weight not in gradients:
            return None
        both = (weight.detach(), gradients[weight])
        parts = [[view.flatten(1) for view in self.layout.views(one)] for one in both]
        bias = getattr(self.layer.module, "bias", None)
        if isinstance(bias, nn.Parameter) and bias in gradients and len(self.layout.blocks) == 1:
            parts += [[bias.detach()[:, None]], [gradients[bias][:, None]]]
        blocks = [symmetric_fraction(*block) for block in zip(*parts, strict=True)]
        return fmean(blocks)


def tell_inputs(expectation: Expectation, inputs: object) -> None:
    """Let the tensors in `inputs` count as Gaussian signals of their mean square."""
    for tensor in tensors(inputs):
        if tensor.is_floating_point() and tensor.numel():
            expectation.tell(tensor, gaussian(mean_square(summary_of(tensor))))


@contextmanager
def watching(meters: Sequence[Meter], expectation: Expectation) -> Iterator[None]:
    """Attach the meters, and remove them whatever happens; the first input of the model counts as linear."""
    calls = iter(range(1, 1 << 62))
    with ExitStack() as stack:
        for meter in meters:
            module = meter.layer.module

            if isinstance(module, torch.jit.ScriptModule):
                continue

            def enter(_module: nn.Module, args: tuple[object, ...], meter: Meter = meter) -> None:
                if not in_backward():  # a recomputation by activation checkpointing
                    with _quiet(expectation):
                        meter.enter(expectation, args)
                    expectation.paused = has_rule(meter.layer.module)  # its rule will say it better than its parts

            def leave(_module: nn.Module, _args: object, output: object, meter: Meter = meter) -> None:
                if not in_backward():
                    expectation.paused = False
                    with _quiet(expectation):
                        meter.leave(expectation, output, next(calls))

            stack.callback(module.register_forward_pre_hook(enter).remove)
            stack.callback(module.register_forward_hook(leave).remove)
        yield


@contextmanager
def _quiet(expectation: Expectation) -> Iterator[None]:
    before, expectation.paused = expectation.paused, True
    try:
        yield
    finally:
        expectation.paused = before


def _mixing_weight(layer: Layer) -> tuple[Place | None, Layout | None]:
    """Return the weight with which a layer mixes its inputs; none for embeddings, normalizations and nonlinearities."""
    if isinstance(layer.module, (nn.Embedding, nn.EmbeddingBag)):
        return None, None
    leaf = next(layer.module.children(), None) is None
    for place in layer.weights.values():
        if len(place.shape) >= 2:
            role = role_of(place)
            if role == "weight":
                return place, layout(place.module, place.leaf, place.shape)
            if role == "unknown" and leaf and len(place.shape) == 2:
                return place, None
    return None, None


def _output_square(module: nn.Module, place: Place, known: Layout | None, square: float) -> float | None:
    """Return the expected mean square of `W x + b`; None where the weights are not centred, or fans unknown."""
    if known is None:
        return None
    weight = summary_of(place.read())
    variance, fan_in = weight.m2 / weight.number, known.fans.fan_in
    by_chance = variance / weight.number
    if weight.mean**2 > 16 * by_chance and weight.mean**2 * fan_in > _CENTRED * variance:
        return None
    bias = getattr(module, "bias", None)
    offset = float(bias.detach().double().square().mean()) if isinstance(bias, Tensor) else 0.0
    return variance * fan_in * square + offset


def _target_std(front: Expected | None, fan_in: float | None) -> float | None:
    if front is None or front.front is None or not fan_in:
        return None
    try:
        return exact(front.front).forward / math.sqrt(fan_in)
    except (ValueError, TypeError, NotImplementedError):
        return None


def _bounds(module: nn.Module) -> tuple[float, float] | None:
    if isinstance(module, nn.Hardtanh) and not isinstance(module, nn.ReLU6):
        return float(module.min_val), float(module.max_val)
    return _BOUNDS.get(type(module))


def _nonzero_units(module: nn.Module, values: Tensor) -> Tensor:
    """Return for each unit (channel, feature) whether any of its values is not zero."""
    channels = isinstance(module, _ConvNd) or (values.ndim >= 4 and not isinstance(module, nn.Linear))
    axis = 1 if channels and values.ndim >= 3 else values.ndim - 1
    values = values.detach()
    return (values != 0).movedim(axis, 0).flatten(1).any(1) if values.ndim else values.reshape(1) != 0


def summary_of(values: Tensor) -> Summary:
    """Return the summary of `values`, as far as the moments go."""
    if values.is_cpu:
        return fast.summary(values)
    return Summary(*summarize(values, only_moments=True).tolist())


def _output_summary(values: Tensor, bounds: tuple[float, float] | None) -> Summary:
    """Return the moments, and how many values are saturated or not finite."""
    found, values = summary_of(values), values.detach()
    if not math.isfinite(found.m2):
        found = found._replace(nonfinite=float((~torch.isfinite(values)).sum()))
    if bounds is not None:
        margin = 0.01 * (bounds[1] - bounds[0])
        full = (values <= bounds[0] + margin) | (values >= bounds[1] - margin)
        found = found._replace(saturated=float(full.sum()))
    return found


def mean_square(summary: Summary) -> float:
    """Return the mean squared absolute value."""
    return summary.m2 / summary.number + summary.mean**2 + summary.imag**2 if summary.number else 0.0


def _std(values: Tensor) -> float:
    summary = summary_of(values)
    return math.sqrt(summary.m2 / summary.number) if summary.number else math.nan


def _energy(gradient: Tensor) -> float:
    summary = summary_of(gradient)
    return mean_square(summary) * summary.number
