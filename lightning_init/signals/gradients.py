"""Gradient norms, per layer and in total: everything is one list of sums of squares."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Collection, Sequence
from itertools import compress
from operator import attrgetter, truediv

import torch
from torch import Tensor, nn

from lightning_init.signals import fast
from lightning_init.signals.gauge import Transfers
from lightning_init.signals.layers import Layer
from lightning_init.signals.shards import Whole
from lightning_init.signals.statistics import Summary
from lightning_init.signals.transfer import Sent

TOTAL = "gradient_norm_total"
_GRAD, _IS_CPU = attrgetter("grad"), attrgetter("is_cpu")
_REST = ""  # the tag of the parameters that count in the total alone


class GradientNorms:
    """Norms of the gradients of `layers`, each over the layer's own parameters, and of the whole model.

    Where several optimizer steps fall on one point, the norm of a layer is the root of the mean square over the steps
    that reached it.

    Args:
        layers: get a series each.
        model: its other parameters count in the total.
        transfers: gives the transfer of a device.
        shards: what of the gradients this rank counts.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        model: nn.Module,
        transfers: Transfers,
        shards: Whole,
    ) -> None:
        owned = [(f"gradient_norm/{layer.name}", layer.parameters) for layer in layers]
        claimed = {parameter for _, parameters in owned for parameter in parameters}
        rest = tuple(parameter for parameter in model.parameters() if parameter not in claimed)
        groups = [(tag, parameters) for tag, parameters in [*owned, (_REST, rest)] if parameters]
        self._groups = [tag for tag, _ in groups]
        self._every = range(len(groups))
        self._owners = array("q", [owner for owner, (_, parameters) in enumerate(groups) for _ in parameters])
        self._parameters = [one for _, parameters in groups for one in parameters]
        self._transfers = transfers
        self._gradient: Callable[[nn.Parameter], Tensor | None] = shards.gradient if shards.divided else _GRAD
        self._energies, self._steps = self._nothing()
        self._sent: list[tuple[list[int], Sent]] = []

    def add(self, parameters: Collection[nn.Parameter] | None = None, scale: Tensor | None = None) -> None:
        """Add the gradients that one optimizer step is about to use.

        Args:
            parameters: those of the optimizer; None takes every gradient there is.
            scale: that the gradients still carry (of AMP's GradScaler); None if they carry none.
        """
        owners, gradients = self._reached(parameters)
        for owner in self._every if owners is self._owners else set(owners):
            self._steps[owner] += 1
        if not all(map(_IS_CPU, gradients)):
            pairs = list(zip(owners, gradients, strict=True))
            self._send([pair for pair in pairs if not pair[1].is_cpu], scale)
            here = [pair for pair in pairs if pair[1].is_cpu]
            owners, gradients = array("q", [owner for owner, _ in here]), [gradient for _, gradient in here]
        factor = 1.0 if scale is None or not scale.is_cpu else float(scale) ** -2
        fast.add_energies(gradients, owners, self._energies, factor)

    def _reached(self, parameters: Collection[nn.Parameter] | None) -> tuple[array[int], list[Tensor]]:
        """Return the gradients there are, and before them the group that each belongs to."""
        gradients = [one for one in map(self._gradient, self._parameters) if one is not None]
        if parameters is None and len(gradients) == len(self._owners):
            return self._owners, gradients
        pairs = zip(self._owners, self._parameters, strict=True)
        chosen = [(owner, one) for owner, one in pairs if parameters is None or one in parameters]
        reached = [(owner, one) for owner, of in chosen if (one := self._gradient(of)) is not None]
        return array("q", [owner for owner, _ in reached]), [one for _, one in reached]

    @property
    def tags(self) -> list[str]:
        """The tags of the layers and of the total."""
        return [tag for tag in self._groups if tag != _REST] + [TOTAL]

    def take(self) -> Norms:
        """Return what was measured, and start afresh."""
        norms = Norms(self._groups, self._energies, self._steps, self._sent)
        self._energies, self._steps = self._nothing()
        self._sent = []
        return norms

    def _nothing(self) -> tuple[array[float], list[int]]:
        """Return no energy and no step for each group."""
        return array("d", bytes(8 * len(self._groups))), [0] * len(self._groups)

    def _send(self, gradients: list[tuple[int, Tensor]], scale: Tensor | None) -> None:
        """Send the norms of gradients on devices, one batch per device."""
        by_device: dict[torch.device, list[tuple[int, Tensor]]] = {}
        for index, gradient in gradients:
            by_device.setdefault(gradient.device, []).append((index, gradient))
        for device, group in by_device.items():
            norms = _norms([_dense(gradient) for _, gradient in group])
            if scale is not None:
                norms = norms / scale.to(device, non_blocking=True)
            self._sent.append(([index for index, _ in group], self._transfers(device).put(norms)))


class Norms:
    """The gradient norms of one point; layers without any gradient have no entry.

    Args:
        tags: of the groups of parameters; none for those that count in the total alone.
        energies: the sum of squares of each group, over the steps that reached it.
        steps: how many these are.
        sent: more of them, on their way from a device: for some groups, the norm at one step.
    """

    def __init__(
        self, tags: Sequence[str], energies: array[float], steps: list[int], sent: Sequence[tuple[list[int], Sent]]
    ) -> None:
        self._tags = tags
        self._energies = energies
        self._steps = steps
        self._sent = sent

    def rows(self) -> list[Summary]:
        """Return a row for each group: its energy, which adds up over ranks, and its steps, of which the most count."""
        self._arrive()
        pairs = zip(self._energies, self._steps, strict=True)
        return [Summary(1, m2=energy, high=steps) for energy, steps in pairs]

    def values(self, rows: Sequence[Summary] | None = None) -> dict[str, float]:
        """Return tag -> norm."""
        self._arrive()
        energies = self._energies if rows is None else [row.m2 for row in rows]
        steps: Sequence[float] = self._steps if rows is None else [row.high for row in rows]
        means = list(map(truediv, energies, [count or 1 for count in steps]))
        values = dict(zip(compress(self._tags, steps), compress(map(math.sqrt, means), steps), strict=True))
        values.pop(_REST, None)
        if any(steps):
            values[TOTAL] = math.sqrt(sum(means))
        return values

    def _arrive(self) -> None:
        sent, self._sent = self._sent, ()
        for indices, numbers in sent:
            for index, norm in zip(indices, numbers(), strict=True):
                self._energies[index] += norm * norm


def _dense(gradient: Tensor) -> Tensor:
    gradient = gradient.detach()
    return gradient.coalesce().values() if gradient.layout is torch.sparse_coo else gradient


def _norms(tensors: list[Tensor]) -> Tensor:
    """Return the norms of tensors of one device, `(len(tensors),)`, reduced in float64 so that none underflows."""
    dtype = torch.float32 if tensors[0].device.type == "mps" else torch.float64
    return torch.stack(
        [torch.linalg.vector_norm(tensor, dtype=_real_or_complex(tensor, dtype)).to(dtype) for tensor in tensors]
    )


def _real_or_complex(tensor: Tensor, dtype: torch.dtype) -> torch.dtype:
    return dtype.to_complex() if tensor.is_complex() else dtype
