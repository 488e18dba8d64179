"""Gradient norms, per layer and in total: everything is one list of sums of squares."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor, nn

from lightning_init.signals import fast
from lightning_init.signals.gauge import Transfers
from lightning_init.signals.layers import Layer
from lightning_init.signals.statistics import Summary
from lightning_init.signals.transfer import Sent

TOTAL = "gradient_norm_total"


class GradientNorms:
    """Norms of the gradients of `layers`, each over the layer's own parameters, and of the whole model.

    Where several optimizer steps fall on one point, the norm of a layer is the root of the mean square over the steps
    that reached it.

    Args:
        layers: get a series each.
        model: its other parameters count in the total.
        transfers: gives the transfer of a device.
        gradient: gives the gradient of a parameter, as far as this rank counts it.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        model: nn.Module,
        transfers: Transfers,
        gradient: Callable[[nn.Parameter], Tensor | None],
    ) -> None:
        owned = [(f"gradient_norm/{layer.name}", layer.parameters) for layer in layers]
        claimed = {parameter for _, parameters in owned for parameter in parameters}
        rest = tuple(parameter for parameter in model.parameters() if parameter not in claimed)
        groups = [(tag, parameters) for tag, parameters in [*owned, ("", rest)] if parameters]
        self._groups = [tag for tag, _ in groups]
        self._owned = [(owner, one) for owner, (_, parameters) in enumerate(groups) for one in parameters]
        self._transfers = transfers
        self._gradient = gradient
        self._energies, self._steps = [0.0] * len(groups), [0] * len(groups)
        self._sent: list[tuple[list[int], Sent]] = []

    def add(self, parameters: Collection[nn.Parameter] | None = None, scale: Tensor | None = None) -> None:
        """Add the gradients that one optimizer step is about to use.

        Args:
            parameters: those of the optimizer; None takes every gradient there is.
            scale: that the gradients still carry (of AMP's GradScaler); None if they carry none.
        """
        owned = self._owned if parameters is None else [pair for pair in self._owned if pair[1] in parameters]
        reached = [(owner, one) for owner, parameter in owned if (one := self._gradient(parameter)) is not None]
        here = [pair for pair in reached if pair[1].is_cpu]
        factor = 1.0 if scale is None or not scale.is_cpu else float(scale) ** -2
        for (owner, _), energy in zip(here, fast.energies([gradient for _, gradient in here]), strict=True):
            self._energies[owner] += energy * factor
        for owner in {owner for owner, _ in reached}:
            self._steps[owner] += 1
        if len(here) < len(reached):
            self._send([pair for pair in reached if not pair[1].is_cpu], scale)

    @property
    def tags(self) -> list[str]:
        """The tags of the layers and of the total."""
        return [tag for tag in self._groups if tag] + [TOTAL]

    def take(self) -> Norms:
        """Return what was measured, and start afresh."""
        norms = Norms(self._groups, self._energies, self._steps, self._sent)
        self._energies, self._steps, self._sent = [0.0] * len(self._groups), [0] * len(self._groups), []
        return norms

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
        self, tags: Sequence[str], energies: list[float], steps: list[int], sent: Sequence[tuple[list[int], Sent]]
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
        means = [energy / count if count else 0.0 for energy, count in zip(energies, steps, strict=True)]
        groups = zip(self._tags, means, steps, strict=True)
        values = {tag: math.sqrt(mean) for tag, mean, count in groups if count and tag}
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
