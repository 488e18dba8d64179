"""The probe: owns the hooks of a model and measures its signals, with or without Lightning.

A point is one optimizer step: `open` begins it, forwards are pooled while the probe is running, `before_update` is
called when the gradients are final and the weights not yet changed, `close` ends it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from typing_extensions import Self

from lightning_init.placement import Place
from lightning_init.signals import fast
from lightning_init.signals.catalogue import Wanted
from lightning_init.signals.gauge import Gauge
from lightning_init.signals.gauges import Gauges
from lightning_init.signals.gradients import GradientNorms
from lightning_init.signals.layers import Layer, find_layers
from lightning_init.signals.outputs import bounds_of, most_units, unit_dim
from lightning_init.signals.reading import Reading
from lightning_init.signals.samples import sample
from lightning_init.signals.shards import Shards, Whole
from lightning_init.signals.tap import Switch, Tap
from lightning_init.signals.transfer import Transfer
from lightning_init.signals.updates import Update


class Probe:
    """Measures the signals of a model.

    Args:
        model: nothing in it is changed, but for the hooks while they are attached.
        wanted: the statistics of each signal.
        layers: globs over layer names; None takes all, an empty tuple none. The total of the gradient covers the whole
            model in any case.
        shards: what of the parameters this rank counts, where they are divided among ranks.

    Attributes:
        steps: how many optimizer steps the open point has seen.
        samples: tag -> values for its histograms, where they were asked for.
        silent: the layers that were not called in the last point that was closed -> why, as far as is known.

    Raises:
        ValueError: if a glob matches no layer.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    >>> probe = Probe(model)
    >>> with probe:
    ...     probe.open()
    ...     model(torch.ones(1, 2)).sum().backward()
    ...     probe.before_update()
    ...     values = probe.close().values()
    >>> list(values)  # doctest: +NORMALIZE_WHITESPACE
    ['weight_variance/0', 'activation_variance/0', 'activation_variance/1', 'gradient_norm/0', 'gradient_norm_total']
    """

    def __init__(
        self,
        model: nn.Module,
        wanted: Wanted | None = None,
        layers: str | Sequence[str] | None = None,
        shards: Whole | None = None,
    ) -> None:
        wanted = wanted or Wanted()
        self._shards = shards or Whole()
        self.model = model
        self._globs = layers
        self.layers: list[Layer] = find_layers(model, layers)
        self._made_for = _content(self.layers)
        self._switch = Switch(model)
        self._transfers: dict[torch.device, Transfer] = {}
        self._handles: list[RemovableHandle] = []
        self._readable = [
            (name, place)
            for layer in self.layers
            for name, place in layer.weights.items()
            if not (isinstance(self._shards, Shards) and self._shards.flattened(place))
        ]
        weights = [
            (self._gauge("weight", name, wanted.weights), place) for name, place in self._readable if wanted.weights
        ]
        self._weights = Gauges([gauge for gauge, _ in weights])
        at_once = [pair for pair in weights if self._is_resident(*pair)]
        self._resident = [gauge.row for gauge, _ in at_once], [place.parameter for _, place in at_once]
        self._computed = [pair for pair in weights if not self._is_resident(*pair)]
        watched = [
            (layer, self._activation_gauge(layer, wanted.activations)) for layer in self.layers if wanted.activations
        ]
        self._activations = Gauges([gauge for _, gauge in watched])
        self._taps = [(layer, Tap(layer.name, gauge, self._switch)) for layer, gauge in watched]
        moments = [name for name in wanted.gradients if name != "norm"]
        self._gradients = [
            (self._gauge("gradient", layer.name, moments), layer.parameters)
            for layer in self.layers
            if moments and layer.parameters
        ]
        self._gradient_gauges = Gauges([gauge for gauge, _ in self._gradients])
        self._norms = (
            GradientNorms(self.layers, model, self._transfer, self._shards) if "norm" in wanted.gradients else None
        )
        self._updates = [
            Update(name, partial(self._shards.read, place), wanted.updates, self._transfer)
            for name, place in self._readable
            if wanted.updates
        ]
        self._weighed: bool | None = None  # whether the weights of the open point were measured; None without a point
        self.steps = 0
        self.samples: dict[str, Tensor] | None = None
        self.silent: dict[str, str] = {}

    # --- hooks

    def attach(self) -> None:
        """Register the hooks. Before a model is compiled: a graph keeps the hooks that it was traced with."""
        if self._handles:
            return
        device = next((p.device for p in self.model.parameters()), torch.device("cpu"))
        if device.type == "cpu":
            fast.prepare()
        units = most_units(self.model)
        for layer, tap in self._taps:
            if isinstance(layer.module, torch.jit.ScriptModule):
                continue  # it refuses hooks
            tap.gauge.prepare(device, units)
            self._handles.append(layer.module.register_forward_hook(tap))

    def detach(self) -> None:
        """Remove the hooks."""
        self.pause()
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def __enter__(self) -> Self:
        self.attach()
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()

    # --- points

    def describes(self, model: nn.Module) -> bool:
        """Return whether `model` still consists of the layers and parameters that this probe was made for."""
        return self.model is model and self._made_for == _content(find_layers(model, self._globs))

    @property
    def tags(self) -> list[str]:
        """Every tag that a point may have; those of one statistic in the order of its values."""
        norms = self._norms.tags if self._norms is not None else []
        updates = [tag for one in self._updates for tag in one.tags]
        return [*self._weights.tags, *self._activations.tags, *self._gradient_gauges.tags, *norms, *updates]

    @property
    def divided(self) -> bool:
        """Whether each rank measures its own part of the parameters."""
        return self._shards.divided

    def open(self, *, histograms: bool = False) -> None:
        """Begin a point: forget what was measured and not read, and run.

        Args:
            histograms: take samples as well.
        """
        if self._weighed is not None:  # a point was left open
            self._take()
        self._weighed, self.steps = False, 0
        self.samples = self._switch.samples = {} if histograms else None
        self.resume()

    def pause(self) -> None:
        """Stop counting forwards, until `resume`."""
        self._switch.on = False

    def resume(self) -> None:
        """Count forwards again."""
        self._switch.on = True

    def before_update(self, parameters: Collection[nn.Parameter] | None = None, scale: Tensor | None = None) -> None:
        """Measure the gradients, and at the first call of a point the weights.

        Args:
            parameters: those that are about to be updated; None takes every gradient there is.
            scale: that the gradients still carry (of AMP's GradScaler).
        """
        self._weigh()
        self.steps += 1
        if self.samples is not None:
            self._sample_gradients(self.samples, parameters, scale)
        if self._norms is not None:
            self._norms.add(parameters, scale)
        for gauge, owned in self._gradients:
            for parameter in owned:
                if parameters is None or parameter in parameters:
                    gradient = self._shards.gradient(parameter)
                    if gradient is not None:
                        gauge.add(gradient if scale is None else gradient / scale)

    def close(self) -> Reading:
        """End the point and return its reading; weights are measured now if nothing was updated."""
        self._weigh()
        self.pause()
        for update in self._updates:
            if self.steps:
                update.after()
        reading = self._take()
        self._weighed = None
        for transfer in self._transfers.values():
            transfer.start()
        return reading

    def _weigh(self) -> None:
        if self._weighed:
            return
        self._weighed = True
        fast.add_each(*self._resident)
        for gauge, place in self._computed:
            gauge.add(self._shards.read(place))
        for update in self._updates:
            update.before()
        if self.samples is not None:
            for name, place in self._readable:
                self.samples[f"weight_histogram/{name}"] = sample(self._shards.read(place))

    def _sample_gradients(
        self, samples: dict[str, Tensor], parameters: Collection[nn.Parameter] | None, scale: Tensor | None
    ) -> None:
        for layer in self.layers:
            owned = [one for one in layer.parameters if parameters is None or one in parameters]
            gradients = [gradient for one in owned if (gradient := self._shards.gradient(one)) is not None]
            if gradients:
                values = torch.cat([sample(one) for one in gradients])
                samples[f"gradient_histogram/{layer.name}"] = values if scale is None else values / scale

    def _take(self) -> Reading:
        activations = self._activations.take()
        uncalled = [self._taps[row] for row in activations.empty()]
        self.silent = {layer.name: _reason(layer, tap) for layer, tap in uncalled}
        moments = [self._gradient_gauges.take()] if self._gradients else []
        norms = [] if self._norms is None else [self._norms.take()]
        return Reading(
            self._weights.take(),
            activations,
            [*moments, *norms, *(update.take() for update in self._updates)],
            travels=bool(self._transfers),
            divided=self._shards.divided,
        )

    def _is_resident(self, gauge: Gauge, place: Place) -> bool:
        """Return whether the weight is a parameter that lies on the CPU as a whole, and moments are asked for alone."""
        if place.kind != "direct" or self._shards.divided or not gauge.lean:
            return False
        weight = place.parameter
        return type(weight) is nn.Parameter and weight.is_cpu and weight.layout is torch.strided

    def _gauge(self, signal: str, name: str, statistics: Sequence[str]) -> Gauge:
        return Gauge({f"{signal}_{one}/{name}": one for one in statistics}, self._transfer)

    def _activation_gauge(self, layer: Layer, statistics: Sequence[str]) -> Gauge:
        bounds = bounds_of(layer.module)
        usable = [one for one in statistics if one != "saturation" or bounds is not None]
        series = {f"activation_{one}/{layer.name}": one for one in usable}
        return Gauge(series, self._transfer, bounds, partial(unit_dim, layer.module))

    def _transfer(self, device: torch.device) -> Transfer:
        if device not in self._transfers:
            self._transfers[device] = Transfer(device)
        return self._transfers[device]


def _content(layers: Sequence[Layer]) -> list[object]:
    """Return what a probe takes for granted: the modules, and for each parameter its identity, device and dtype."""
    return [
        (
            layer.name,
            layer.module,
            [(name, place.kind, *map(id, place.stored.values())) for name, place in layer.weights.items()],
            [(id(parameter), parameter.device, parameter.dtype) for parameter in layer.parameters],
        )
        for layer in layers
    ]


def _reason(layer: Layer, tap: Tap) -> str:
    """Return why a layer was not called."""
    if tap.error is not None:
        return f"its output could not be read: {tap.error}"
    if isinstance(layer.module, torch.jit.ScriptModule):
        return "torch.jit.script lets no hook into its modules"
    if not tap.switch.model.training:
        return "the model is in eval mode"
    if isinstance(layer.parent, nn.MultiheadAttention):
        return "MultiheadAttention uses its weights without calling it"
    if isinstance(layer.module, (nn.ParameterList, nn.ParameterDict)):
        return "it holds parameters and is never called"
    return (
        "its forward was not called in this step (a model that calls torch.nn.functional with its weights, a branch not"
        " taken, a graph compiled before the hooks were there), or it returned no floating tensor"
    )
