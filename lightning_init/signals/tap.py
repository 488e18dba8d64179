"""A tap: the forward hook that shows one layer's output to its gauge.

A call of the kernel takes longer than to read a small tensor, so small outputs wait until some of them are read in one
call. That is right as long as nobody changes them in the meantime, as in-place operations do. So each layer's outputs
are read at once in the first point, and looked at again later: only if they are still the same will those to come wait.
Of one that is changed all the same its version tells; the layer then has no value at this point, and waits no more.
"""

from __future__ import annotations

from operator import attrgetter
from threading import Lock

import torch
from torch import Tensor, compiler, nn

from lightning_init.signals import fast
from lightning_init.signals.gauge import Gauge
from lightning_init.signals.layers import first_tensor
from lightning_init.signals.samples import sample
from lightning_init.signals.statistics import Summary

_SMALL = 1 << 14  # values of an output that may wait
_MANY = 64  # outputs that wait at most
_row = attrgetter("gauge.row")
_graph_task = torch._C._current_graph_task_id  # noqa: SLF001 (no public way to ask; torch.utils.checkpoint asks so too)


class Switch:
    """What all taps of a probe share: whether forwards count at the moment, and the outputs that wait.

    Args:
        model: forwards do not count while it is in eval mode.

    Attributes:
        waiting: taps and outputs that are still to be read.
        changed: taps of which an output was changed while it waited, in this point.
    """

    __slots__ = ("_lock", "_same", "_watched", "changed", "model", "on", "samples", "waiting")

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.samples: dict[str, Tensor] | None = None
        self.on = False
        self.waiting: list[tuple[Tap, Tensor]] = []
        self.changed: set[Tap] = set()
        self._watched: list[tuple[Tap, Tensor, Summary]] = []
        self._same: dict[Tap, bool] = {}  # of what was watched in this point
        self._lock = Lock()  # several threads may run a model

    def __reduce__(self) -> tuple[type[Switch], tuple[nn.Module]]:
        """Copies have nothing to read, and a lock of their own."""
        return Switch, (self.model,)

    def watch(self, tap: Tap, values: Tensor) -> None:
        """Look at an output that was read again, after more than would have waited with it."""
        with self._lock:
            self._watched.append((tap, values, fast.summary(values)))
            if len(self._watched) == 2 * _MANY:
                self._compare(_MANY)

    def read(self) -> None:
        """Read the outputs that wait."""
        with self._lock:
            waiting = self.waiting[:]
            del self.waiting[: len(waiting)]
            if not waiting:
                return
            taps, outputs = map(list, zip(*waiting, strict=True))
            if any(map(fast.version, outputs)):
                changed = {tap for tap, values in waiting if fast.version(values)}
                for tap in changed:
                    tap.waits = False
                self.changed |= changed
                kept = [(tap, values) for tap, values in waiting if tap not in changed]
                taps, outputs = [tap for tap, _ in kept], [values for _, values in kept]
            fast.add_each(list(map(_row, taps)), outputs)

    def settle(self) -> None:
        """Read all, and look at all that is watched."""
        if self.waiting:
            self.read()
        if self._watched:
            with self._lock:
                self._compare(len(self._watched))

    def end_point(self) -> set[Tap]:
        """Settle, and have those taps wait from now on whose outputs have all stayed the same.

        Returns:
            The taps of which an output was changed while it waited.
        """
        self.settle()
        if self._same:
            for tap, same in self._same.items():
                tap.waits = same
            self._same = {}
        changed, self.changed = self.changed, set()
        return changed

    def _compare(self, number: int) -> None:
        for tap, values, before in self._watched[:number]:
            same = fast.version(values) == 0 and fast.summary(values) == before
            self._same[tap] = same and self._same.get(tap, True)
        del self._watched[:number]


class Tap:
    """Forward hook of one layer; in a copy of the model (deepcopy, pickle) it is one that does nothing.

    Args:
        name: of the layer.
        gauge: gets the first floating tensor of what the layer returns.
        switch: turns all taps on and off.

    Attributes:
        waits: whether small outputs wait to be read; None until that is known.
    """

    __slots__ = ("error", "gauge", "name", "switch", "waits")

    def __init__(self, name: str, gauge: Gauge, switch: Switch) -> None:
        self.name = name
        self.gauge = gauge
        self.switch = switch
        self.error: str | None = None  # words alone: the exception's traceback holds the activations
        self.waits: bool | None = None if gauge.lean else False

    def __call__(self, module: nn.Module, args: object, output: object) -> None:
        """Measure `output` now, or have it wait."""
        del module, args
        switch = self.switch
        if compiler.is_dynamo_compiling():
            if switch.on:  # a graph of its own for the steps that are not logged
                self._trace(output)
        elif switch.on and _graph_task() == -1 and self.error is None and switch.model.training:
            if (
                self.waits
                and type(output) is Tensor
                and output.numel() <= _SMALL
                and switch.samples is None
                and fast.is_fresh(output)  # as at the first point, but a layer need not do the same again
            ):
                switch.waiting.append((self, output))
                if len(switch.waiting) >= _MANY:
                    switch.read()
            else:
                self._measure(output)

    def __reduce__(self) -> tuple[type[Idle], tuple[()]]:
        """Copies are not measured: nobody would read them, and they would hold the probe and with it all the model."""
        return Idle, ()

    def _measure(self, output: object) -> None:
        values = output if type(output) is Tensor and output.is_floating_point() else first_tensor(output)
        if values is None:
            return
        try:
            self.gauge.add(values)
            if self.switch.samples is not None:
                self._sample(values, self.switch.samples)
        except (RuntimeError, TypeError, NotImplementedError) as error:  # e.g. a tensor inside torch.vmap
            self.error = str(error)
            return
        if self.waits is None:
            if type(output) is Tensor and output.numel() <= _SMALL and fast.can_wait(output):
                self.switch.watch(self, output)
            else:
                self.waits = False

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
