"""One parameter of a plan: its initializer, the std that it aims at, and what the report says of it."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_init.fans import Layout
from lightning_init.initializers.base import Initializer
from lightning_init.placement import Place
from lightning_init.report import Entry


@dataclass(frozen=True)
class Assignment:
    """One effective parameter with its initializer (None: kept), its layout, and the reason.

    `claimed`: whether something knows it; `ruled`: whether a rule of the user's gives it its initializer.
    """

    place: Place
    initializer: Initializer | None
    layout: Layout | None
    why: str
    claimed: bool = True
    ruled: bool = False

    @property
    def name(self) -> str:
        """Full effective parameter name."""
        return self.place.name

    @property
    def target_std(self) -> float | None:
        """The std that the initializer aims at (over all blocks); None if kept or without a closed form."""
        if self.initializer is None:
            return None
        if self.layout is None:
            return self.initializer.target_std(self.place.shape, None)
        shape = self.place.shape
        stds: Counter[float] = Counter()
        for block in self.layout.blocks:
            std = self.initializer.target_std(self.layout.block_shape(block, shape), block.fans)
            if std is None:
                return None
            stds[float(std)] += block.rows
        if len(stds) == 1:
            return next(iter(stds))
        return math.sqrt(sum(std**2 * rows for std, rows in stds.items()) / stds.total())


@dataclass(frozen=True)
class Reading:
    """What was read back after writing: the effective std, and the drawn one where a computation lies between."""

    achieved_std: float | None = None
    drawn_std: float | None = None


def entries(assignment: Assignment, reading: Reading) -> Iterator[Entry]:
    """Yield one entry for each stored parameter behind the assignment."""
    place, initializer, layout = assignment.place, assignment.initializer, assignment.layout
    target = assignment.target_std
    why = assignment.why + _remarks(assignment, reading)
    for name, parameter in place.stored.items():
        yield Entry(
            name=name,
            module=place.module_name,
            shape=tuple(parameter.shape),
            initializer=None if initializer is None else _ADDRESS.sub("", repr(initializer)),
            label="-" if initializer is None else _ADDRESS.sub("", initializer.label),
            fan_in=layout.fans.fan_in if layout else None,
            fan_out=layout.fans.fan_out if layout else None,
            gain=initializer.gain if initializer is not None else None,
            target_std=target,
            achieved_std=reading.achieved_std,
            why=_ADDRESS.sub("", why),
        )


def _remarks(assignment: Assignment, reading: Reading) -> str:
    """Return what the reader must know beside the reason: packing, ties, computed weights, a missed target."""
    place, layout = assignment.place, assignment.layout
    remarks = []
    if assignment.initializer is not None and layout is not None and len(layout.blocks) > 1:
        remarks.append(f"{len(layout.blocks)} blocks of {layout.blocks[0].rows}")
    if place.also:
        remarks.append(f"tied with {', '.join(place.also)}")
    if place.kind != "direct":
        remarks.append(f"effective {place.name}, computed by its {place.kind}")
        drawn, achieved = reading.drawn_std, reading.achieved_std
        if drawn is not None and achieved is not None and not math.isclose(drawn, achieved, rel_tol=0.01):
            remarks.append(f"which turns the drawn std {drawn:.4g} into {achieved:.4g}")
    elif assignment.initializer is not None:
        remarks.extend(_missed(assignment.initializer, assignment.target_std, reading.achieved_std, place.parameter))
    return "".join(f"; {remark}" for remark in remarks)


_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")  # in the text of functions without a name; another one in every process
_PRECISE = (torch.float32, torch.float64, torch.complex64, torch.complex128)


def _missed(initializer: Initializer, target: float | None, achieved: float | None, parameter: Tensor) -> Iterator[str]:
    """Yield how the target was missed, by more than chance and rounding, and why: a narrow type, or a wrong target."""
    if target is None or parameter.numel() == 0 or parameter.is_meta:
        return
    noise = (5 if initializer.elementwise else 20) / math.sqrt(parameter.numel()) + 0.01
    narrow = parameter.dtype not in _PRECISE
    if achieved is None:
        yield f"the values do not fit into {parameter.dtype}: some are not finite" if narrow else "not all are finite"
    elif target and abs(achieved - target) > noise * target:
        if narrow:
            yield f"{parameter.dtype} cannot hold the std {target:.4g}: it became {achieved:.4g}"
        else:
            yield f"{type(initializer).__name__}.target_std says {target:.4g}, and its values have {achieved:.4g}"
