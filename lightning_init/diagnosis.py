"""diagnose: one forward and one backward pass, and what they say about a network before it is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from torch import nn

from lightning_init._running import call_of
from lightning_init.signals.profile import LayerProfile, Profile
from lightning_init.signals.profiling import Loss, measure
from lightning_init.signals.verdicts import Finding, Kind, asleep, findings, healthy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def diagnose(model: nn.Module, batch: object, loss: Loss | None = None) -> Diagnosis:
    """Return what one forward and one backward pass say about `model`; nothing in it is changed.

    Parameters, their gradients, buffers, train or eval mode, hooks and the random streams are as before when it
    returns or raises. The network is seen in the mode that it is in.

    Args:
        model: any module; a LightningModule is seen through its `forward`.
        batch: a tensor; a tuple or list `(input, target)`; or a dict of the arguments of `forward`. A few dozen samples
            are enough, and more than one is needed to tell what is constant from what is not.
        loss: `(output, target) -> scalar` or `(output) -> scalar`. Without it a random gradient of unit variance is
            sent back from the output, always the same: no labels are needed, and nothing depends on the loss's scale.

    Raises:
        TypeError, ValueError: the batch has another form, the forward, the loss or the backward fails, or a weight is
            not finite; the layer is named.

    >>> import torch
    >>> net = nn.Sequential(*[module for _ in range(30) for module in (nn.Linear(64, 64), nn.ReLU())])
    >>> found = diagnose(net, torch.randn(16, 64))  # torch's std is 1/sqrt(3 fan_in), He's sqrt(2/fan_in)
    >>> found.verdict, found.findings[0].direction
    ('vanishing', 'backward')
    """
    return Diagnosis(type(model).__name__, measure(model, call_of(model, batch), loss))


@dataclass(frozen=True)
class Diagnosis:
    """The verdict on one network; `print` it, or see `to_dict` and `plot`.

    Args:
        model: class of the model.
        profile: what was measured.
    """

    model: str
    profile: Profile

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What is wrong, the gravest first."""
        return findings(self.profile)

    @property
    def verdict(self) -> Kind:
        """The gravest finding in one word; `healthy` without any."""
        found = self.findings
        return found[0].kind if found else "healthy"

    @property
    def notes(self) -> tuple[str, ...]:
        """What is worth knowing and not wrong."""
        notes = []
        if self.profile.idle:
            notes.append(f"never ran in this forward pass: {_some(self.profile.idle)}")
        sleeper = asleep(self.profile)
        if sleeper is not None and self.verdict == "healthy":
            notes.append(f"{sleeper} starts at zero, so what stands before it gets its first gradient at step 2")
        untrained = all(layer.gradient_norm is None for layer in self.profile.layers)
        if self.profile.cut and not untrained:
            end = "the first output" if self.profile.loss is None else "the loss"
            names = _some(self.profile.cut)
            notes.append(f"no gradient comes back from {end} to: {names} (detached on the way, or used elsewhere)")
        if untrained:
            notes.append("no parameter gets a gradient: all are frozen, or the output does not depend on them")
        return tuple(notes)

    def to_dict(self) -> dict[str, object]:
        """Return everything in plain JSON types, unrounded."""
        ways = {"forward": self.profile.forward, "backward": self.profile.backward}
        return {
            "model": self.model,
            "verdict": self.verdict,
            "findings": [asdict(finding) for finding in self.findings],
            "notes": list(self.notes),
            "loss": self.profile.loss,
            "slopes": {name: None if line is None else line.slope for name, line in ways.items()},
            "layers": [asdict(layer) for layer in self.profile.layers],
        }

    def __str__(self) -> str:
        lines = [_table([_HEADER, *(_row(layer) for layer in self.profile.layers)]), ""]
        if not self.findings:
            lines.append(f"HEALTHY: {healthy(self.profile)}.")
        for finding in self.findings:
            lines += [f"{finding.kind.upper()} at layer {finding.layer}: {finding.text}.", f"  cure: {finding.cure}."]
        return "\n".join([*lines, *(f"note: {note}." for note in self.notes)])

    def plot(self) -> Figure:
        """Return a figure of both signals over depth, and of what theory expects.

        Raises:
            ImportError: without matplotlib.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise ImportError("Diagnosis.plot draws with matplotlib: pip install matplotlib") from error
        spine = self.profile.spine
        figure = Figure(figsize=(7.0, 6.0), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True)
        _draw(above, "activation variance", [layer.activation_variance for layer in spine], "measured", "o-")
        _draw(above, "activation variance", [layer.predicted_variance for layer in spine], "expected by theory", "--")
        _draw(below, "squared gradient norm at the output", [one.gradient_energy for one in spine], "measured", "o-")
        every = max(1, len(spine) // 25)
        below.set_xticks(range(0, len(spine), every), [one.name for one in spine][::every], rotation=90, fontsize=7)
        below.set_xlabel("layer, in the order in which they run")
        above.legend(frameon=False)
        figure.suptitle(f"{self.model}: {self.verdict}")
        return figure


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def _draw(axes: Axes, label: str, values: Sequence[float | None], series: str, style: str) -> None:
    """Draw what is above zero on a logarithmic axis."""
    points = [(i, value) for i, value in enumerate(values) if value is not None and 0 < value < float("inf")]
    axes.plot([i for i, _ in points], [value for _, value in points], style, label=series, markersize=3)
    if points:
        axes.set_yscale("log")
    axes.set_ylabel(label)
    axes.grid(visible=True, alpha=0.3)


_HEADER = (
    "layer",
    "kind",
    "weight std",
    "target",
    "variance",
    "expected",
    "gradient",
    "grad norm",
    "dead",
    "saturated",
    "symmetric",
)


def _row(layer: LayerProfile) -> tuple[str, ...]:
    figures = (
        layer.weight_std,
        layer.target_std,
        layer.activation_variance,
        layer.predicted_variance,
        layer.gradient_energy,
        layer.gradient_norm,
    )
    shares = (layer.dead, layer.saturated, layer.symmetric)
    return (layer.name, layer.kind, *map(_figure, figures), *map(_share, shares))


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Return aligned columns, names to the left and figures to the right; columns without any entry are left out."""
    columns = [column for column in zip(*rows, strict=True) if any(column[1:])]
    widths = [max(map(len, column)) for column in columns]
    lines = (
        "  ".join(
            cell.ljust(width) if i < 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in zip(*columns, strict=True)
    )
    return "\n".join(line.rstrip() for line in lines)
