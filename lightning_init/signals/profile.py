r"""The depth profile: what one forward and one backward pass show of every layer, before anything is trained.

Layers stand in the order in which they run. The *spine* is those with weights that mix their inputs (linear,
convolution, attention, recurrent, ...): the trend over depth is read off them. Forward that is the variance of their
outputs, backward the energy of the gradient at their outputs (its squared norm): both stay the same from layer to
layer, whatever the widths and strides, where $Var[W] \, fan\_in \, E[f^2] / q = 1$ and
$Var[W] \, fan\_in \, E[f'^2] = 1$.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from lightning_init._running import Call, as_it_was, naming_layers, positional_parameters, refuse_unready, tensors
from lightning_init.fans import Layout, layout
from lightning_init.gains import exact
from lightning_init.placement import Place
from lightning_init.plan import role_of
from lightning_init.signals import fast
from lightning_init.signals.expectation import Expectation, Expected, gaussian, has_rule, through
from lightning_init.signals.layers import Layer, find_layers, first_tensor
from lightning_init.signals.statistics import Summary, pooled, summarize
from lightning_init.signals.symmetry import symmetric_fraction
from lightning_init.signals.tap import in_backward

Loss: TypeAlias = Callable[..., Tensor]
_SEED = 20100513  # of the random output gradient: any number, always the same
_CENTRED = 0.05  # largest share of a layer's output power that may stem from the mean of its weights
_BOUNDS: dict[type[nn.Module], tuple[float, float]] = {
    nn.Tanh: (-1.0, 1.0),
    nn.Softsign: (-1.0, 1.0),
    nn.Sigmoid: (0.0, 1.0),
    nn.Hardsigmoid: (0.0, 1.0),
}


@dataclass(frozen=True)
class LayerProfile:
    """One layer at step 0; what has no meaning for it, or was not seen, is None.

    Args:
        name: path in the model.
        kind: class of the module.
        spine: whether the trend over depth is read off this layer.
        fan_in: connections per output unit.
        front: the nonlinearity in front of the weights; `linear` for none.
        weight_std: std of the effective weight.
        target_std: the std that would keep the variance: gain of `front` / sqrt(fan_in), as the forward gain of
            `lightning_init.gains.exact`.
        input_square: mean square of the inputs.
        activation_variance: variance of the outputs over everything.
        predicted_variance: the same by theory, from the weights' variance (see `signals.expectation`).
        gradient_norm: norm of the gradient of its own parameters.
        gradient_energy: squared norm of the gradient at its outputs.
        dead: share of the units that are zero (nonlinearities), or get no gradient (weights), in the whole batch.
        saturated: share of the values within 1 % of the range from a bound of a bounded nonlinearity.
        symmetric: share of the units whose weights and gradients equal another unit's: copies for ever.
        nonfinite: how many outputs are nan or inf.
        normalized: whether the next layer to run is a normalization, which sets the scale right.
    """

    name: str
    kind: str
    spine: bool
    fan_in: float | None = None
    front: str | None = None
    weight_std: float | None = None
    target_std: float | None = None
    input_square: float | None = None
    activation_variance: float | None = None
    predicted_variance: float | None = None
    gradient_norm: float | None = None
    gradient_energy: float | None = None
    dead: float | None = None
    saturated: float | None = None
    symmetric: float | None = None
    nonfinite: int = 0
    normalized: bool = False

    @property
    def step(self) -> float | None:
        """Decades by which this layer multiplies its signal: log10(output variance / mean square of the input)."""
        if not self.activation_variance or not self.input_square:
            return None
        return math.log10(self.activation_variance / self.input_square)


@dataclass(frozen=True)
class Trend:
    """A straight line through log10 of a signal over depth.

    Args:
        slope: decades per layer, in the direction in which the signal travels.
        layers: how many layers the signal travels through.
    """

    slope: float
    layers: int

    @property
    def drift(self) -> float:
        """Decades from one end to the other."""
        return self.slope * self.layers


def trend(values: Sequence[float | None]) -> Trend | None:
    """Return the least-squares line through log10 of `values`; None with less than two above zero.

    >>> trend([1.0, 0.1, 0.01, None, 0.0001])
    Trend(slope=-1.0, layers=4)
    """
    points = [(i, math.log10(v)) for i, v in enumerate(values) if v is not None and 0 < v < math.inf]
    if len(points) < 2:
        return None
    x0, y0 = fmean(x for x, _ in points), fmean(y for _, y in points)
    slope = sum((x - x0) * (y - y0) for x, y in points) / sum((x - x0) ** 2 for x, _ in points)
    return Trend(round(slope, 12), len(values) - 1)


@dataclass(frozen=True)
class Profile:
    """The layers in the order in which they ran, and the names of those that never did.

    Args:
        layers: what was measured.
        idle: layers that own parameters and never ran.
        loss: the value of the loss; None if there was none.
    """

    layers: tuple[LayerProfile, ...]
    idle: tuple[str, ...] = ()
    loss: float | None = None

    @property
    def spine(self) -> tuple[LayerProfile, ...]:
        """The layers that the trends are read off."""
        return tuple(layer for layer in self.layers if layer.spine)

    @property
    def forward(self) -> Trend | None:
        """Trend of the activations' variance from the network's input to the last layer."""
        spine = self.spine
        return trend([spine[0].input_square, *(layer.activation_variance for layer in spine)]) if spine else None

    @property
    def backward(self) -> Trend | None:
        """Trend of the gradient's energy from the last layer's output to the first layer's."""
        return trend([layer.gradient_energy for layer in reversed(self.spine)])


def measure(model: nn.Module, call: Call, loss: Loss | None = None) -> Profile:
    """Return the depth profile of one forward and one backward pass; the model is left as it was.

    Args:
        model: in the mode (train or eval) in which it is to be seen.
        call: from `lightning_init._running.call_of`.
        loss: `(output, target) -> scalar` or `(output) -> scalar`; None sends a random gradient of unit variance from
            the output instead.

    Raises:
        ValueError: if the model cannot run, or the loss is no scalar that depends on the model.

    >>> model = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 1))
    >>> profile = measure(model, Call((torch.ones(8, 64),), {}))
    >>> [layer.name for layer in profile.layers], profile.spine[1].front
    (['0', '1', '2'], 'relu')
    """
    refuse_unready(model)
    meters = [Meter(layer) for layer in find_layers(model)]
    expectation = Expectation()
    with as_it_was(model), torch.inference_mode(mode=False), torch.enable_grad():
        tell_inputs(expectation, [*call.args, *call.kwargs.values()])
        with naming_layers(model), watching(meters, expectation), expectation:
            output = call(model)
        value, gradients = _backward(model, output, call.target, loss)
        ran = sorted((meter for meter in meters if meter.order), key=lambda meter: meter.order)
        profiles = [meter.profile(gradients) for meter in ran]
        layers = tuple(
            replace(one, normalized=one.spine and "Norm" in after.kind)
            for one, after in zip(profiles, [*profiles[1:], *profiles[-1:]], strict=True)
        )
    if not layers:
        raise ValueError(f"no layer of {type(model).__name__} ran in its forward pass")
    return Profile(layers, tuple(_idle(meters)), value)


def tell_inputs(expectation: Expectation, inputs: object) -> None:
    """Let the tensors in `inputs` count as Gaussian signals of their mean square."""
    for tensor in tensors(inputs):
        if tensor.is_floating_point() and tensor.numel():
            expectation.tell(tensor, gaussian(_mean_square(_summary(tensor))))


def _idle(meters: Sequence[Meter]) -> Iterator[str]:
    for meter in meters:
        inside_attention = isinstance(meter.layer.parent, nn.MultiheadAttention)  # which calls out_proj by itself
        if not meter.order and meter.layer.parameters and not inside_attention:
            yield meter.layer.name


# --- forward ---------------------------------------------------------------------------------------------------------


class Meter:
    """Watches one layer: its input, its output, and (with `gradients`) the gradient at its output."""

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
        if values is not None and self.spine:
            self.inputs.append(_summary(values))
            if known is None or known.square is None:  # theory starts anew from what is measured
                square = _mean_square(self.inputs[-1])
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
        found = _summary(gradient)
        self.energy = (self.energy or 0.0) + _mean_square(found) * found.number
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
            input_square=_mean_square(pooled(self.inputs)) if self.inputs else None,
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


# --- backward --------------------------------------------------------------------------------------------------------


def _backward(
    model: nn.Module, output: object, target: object, loss: Loss | None
) -> tuple[float | None, dict[nn.Parameter, Tensor]]:
    """Return the loss and the gradients of the parameters; none are accumulated anywhere."""
    root = first_tensor(output)
    if root is None:
        raise ValueError(f"{type(model).__name__} returns no floating-point tensor, but {type(output).__name__}")
    weight, value = None, None
    if loss is None:
        generator = torch.Generator().manual_seed(_SEED)
        weight = torch.randn(root.shape, generator=generator).to(root)
    else:
        root = _loss(loss, output, target)
        value = float(root.detach())
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trained or not root.requires_grad:
        if trained and loss is not None:
            raise ValueError("loss must depend on the parameters of the model, but no gradient leads back to them")
        return value, {}
    try:
        found = torch.autograd.grad(root, trained, weight, allow_unused=True)
    except RuntimeError as error:
        raise ValueError(f"the backward pass fails: {' '.join(str(error).split())}") from error
    return value, {p: g.detach() for p, g in zip(trained, found, strict=True) if g is not None}


def _loss(loss: Loss, output: object, target: object) -> Tensor:
    takes = positional_parameters(loss)
    if target is None and takes is not None and takes >= 2:
        raise ValueError("loss takes (output, target), but the batch holds no target: give (input, target) as batch")
    arguments = (output,) if target is None or takes == 1 else (output, target)
    try:
        value = loss(*arguments)
    except Exception as error:
        raise ValueError(f"the loss fails on the model's output: {' '.join(str(error).split())}") from error
    if not isinstance(value, Tensor) or value.numel() != 1:
        got = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"loss must return a scalar tensor, got {got}")
    return value.reshape(())


# --- helpers ---------------------------------------------------------------------------------------------------------


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
    weight = _summary(place.read())
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


def _summary(values: Tensor) -> Summary:
    if values.is_cpu:
        number, mean, m2 = fast.moments(values)
        return Summary(number, mean.real, mean.imag, m2)
    return Summary(*summarize(values, only_moments=True).tolist())


def _output_summary(values: Tensor, bounds: tuple[float, float] | None) -> Summary:
    """Return the moments, and how many values are saturated or not finite."""
    found, values = _summary(values), values.detach()
    if not math.isfinite(found.m2):
        found = found._replace(nonfinite=float((~torch.isfinite(values)).sum()))
    if bounds is not None:
        margin = 0.01 * (bounds[1] - bounds[0])
        full = (values <= bounds[0] + margin) | (values >= bounds[1] - margin)
        found = found._replace(saturated=float(full.sum()))
    return found


def _mean_square(summary: Summary) -> float:
    return summary.m2 / summary.number + summary.mean**2 + summary.imag**2 if summary.number else 0.0


def _std(values: Tensor) -> float:
    summary = _summary(values)
    return math.sqrt(summary.m2 / summary.number) if summary.number else math.nan


def _energy(gradient: Tensor) -> float:
    summary = _summary(gradient)
    return _mean_square(summary) * summary.number
