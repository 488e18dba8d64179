"""A tap: the forward hook that shows one layer's output to its gauge."""

from __future__ import annotations

import torch
from torch import Tensor, compiler, nn

from lightning_init.signals import fast
from lightning_init.signals.gauge import Gauge
from lightning_init.signals.layers import first_tensor
from lightning_init.signals.samples import sample

_compiling = compiler.is_dynamo_compiling
_graph_task = torch._C._current_graph_task_id  # noqa: SLF001 (no public way to ask; torch.utils.checkpoint asks so too)


class Switch:
    """What all taps of a probe share: whether forwards count at the moment.

    Args:
        model: forwards do not count while it is in eval mode.
    """

    __slots__ = ("model", "on", "samples")

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.samples: dict[str, Tensor] | None = None
        self.on = False


class Tap:
    """Forward hook of one layer; in a copy of the model (deepcopy, pickle) it is one that does nothing.

    Args:
        name: of the layer.
        gauge: gets the first floating tensor of what the layer returns; it has its row already.
        switch: turns all taps on and off.
    """

    __slots__ = ("address", "error", "gauge", "name", "switch")

    def __init__(self, name: str, gauge: Gauge, switch: Switch) -> None:
        self.name = name
        self.gauge = gauge
        self.switch = switch
        self.address = gauge.row.address if gauge.lean else 0  # here, since each step further costs a look at memory
        self.error: str | None = None  # words alone: the exception's traceback holds the activations

    def __call__(self, module: nn.Module, args: object, output: object) -> None:
        """Measure `output` now: an in-place operation may change it as soon as the hook returns."""
        del module, args
        switch = self.switch
        if _compiling():
            if switch.on:  # a graph of its own for the steps that are not logged
                self._trace(output)
            return
        counts = switch.on and _graph_task() == -1 and self.error is None and switch.model.training
        if counts and not (
            self.address and type(output) is Tensor and switch.samples is None and fast.pool(output, self.address)
        ):
            self._measure(output)

    def __reduce__(self) -> tuple[type[Idle], tuple[()]]:
        """Copies are not measured: nobody would read them, and they would hold the probe and with it all the model."""
        return Idle, ()

    def _measure(self, output: object) -> None:
        values = first_tensor(output)
        if values is not None:
            try:
                self.gauge.add(values)
                if self.switch.samples is not None:
                    self._sample(values, self.switch.samples)
            except (RuntimeError, TypeError, NotImplementedError) as error:  # e.g. a tensor inside torch.vmap
                self.error = str(error)

    def _sample(self, values: Tensor, samples: dict[str, Tensor]) -> None:
        tag = f"activation_histogram/{self.name}"
        samples[tag] = torch.cat([samples[tag], sample(values)]) if tag in samples else sample(values)

    def _trace(self, output: object) -> None:
        values = first_tensor(output) if self.switch.model.training else None
        if values is not None:
            self.gauge.trace(values)


class Idle:
    """What a copy of a model has in the place of its taps."""

    def __call__(self, module: nn.Module, args: object, output: object) -> None:
        """Do nothing."""


def in_backward() -> bool:
    """Return whether autograd is running backward in this thread: forwards then are recomputations (checkpointing)."""
    return bool(_graph_task() != -1)
