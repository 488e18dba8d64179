"""Kraehenbuehl et al. 2016: every channel gets unit variance on real data, and every layer learns at the same rate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lightning_init._running import Call, naming_layers
from lightning_init.calibration.base import Adjustment, Calibration, Progress, Unit
from lightning_init.calibration.walk import Again, first_tensor, variance, walk
from lightning_init.fans import Layout
from lightning_init.rules import InitializerLike

_SEED = 20160502  # of the random combination of the outputs
_TINY = 1e-12  # std of a channel from which no factor leads back
_SAME = 1e-2  # relative change of the output that counts as none


@dataclass(frozen=True)
class Krahenbuhl(Calibration):
    r"""Normalize within layers, `W_i <- W_i / std_i`, `b_i <- shift - mean_i / std_i` for each channel i; then between.

    Between layers the weights of each are scaled so that all change at the same relative rate,
    $C_k^2 = E[|d (\eta^T z) / d W_k|^2] / |W_k|^2$, which leaves the network's function as it is where nonlinearities
    are positively homogeneous (relu, leaky_relu) and each layer feeds the next. Where they are not, `rounds=0` leaves
    that part out. Layers without a bias keep their means.

    Kraehenbuehl, Doersch, Donahue & Darrell 2016, Data-dependent initializations of convolutional neural networks,
    algorithms 1 (within) and 2 (between).

    Args:
        shift: mean that each channel gets: beta of algorithm 1.
        rounds: of algorithm 2; 0 leaves it out.
        damping: alpha of algorithm 2.
        initializer: what the weights start from.

    >>> import torch
    >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    >>> data = torch.rand(64, 8)
    >>> done = Krahenbuhl(rounds=0).calibrate_(model, [data])
    >>> model(data).mean(0).abs().max().item() < 1e-5, model(data).std(0, correction=0).round(decimals=4)
    (True, tensor([1., 1., 1., 1.], grad_fn=<RoundBackward1>))
    """

    shift: float = 0.0
    rounds: int = 10
    damping: float = 0.25
    initializer: InitializerLike = "large_random"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not math.isfinite(self.shift):
            raise ValueError(f"shift of Krahenbuhl must be finite, got {self.shift}")
        if isinstance(self.rounds, bool) or not isinstance(self.rounds, int) or self.rounds < 0:
            raise ValueError(f"rounds of Krahenbuhl must be a whole number of at least 0, got {self.rounds!r}")
        if not 0 < self.damping <= 1:
            raise ValueError(f"damping of Krahenbuhl must lie in (0, 1], got {self.damping}")

    @property
    def start(self) -> InitializerLike:
        """The initializer that the weights get first."""
        return self.initializer

    def adjust(
        self, model: nn.Module, calls: Sequence[Call], units: Sequence[Unit], progress: Progress
    ) -> list[Adjustment]:
        """Normalize within each layer in one pass through the model, then between them."""
        done = walk(model, calls[0], units, self._within, progress)
        active = [unit for unit in units if not unit.skip]
        if self.rounds and len(active) > 1:
            _between_(model, calls[0], active, self.rounds, self.damping)
        return done

    def _within(self, unit: Unit, output: Tensor, again: Again) -> Adjustment:
        before = variance(output)
        mean, std = _by_channel(unit, output)
        flat = int((~(std > _TINY)).sum())
        if flat:
            raise ValueError(
                f"layer {unit.layer}: {flat} of its {len(std)} channels are constant or not finite over the batch, so "
                "no factor gives them unit variance: a larger batch, or inputs that are alive, may help"
            )
        weight = unit.place.read().clone()
        _scale_rows_(unit.layout, weight, 1 / std)
        unit.place.write_(weight)
        if unit.bias is not None:
            bias = unit.bias.read()
            unit.bias.write_(((bias - mean) / std + self.shift).to(bias))
        after = variance(again())
        found = f"{len(std)} channels of std {float(std.min()):.3g} to {float(std.max()):.3g} set to 1"
        means = "" if unit.bias is None else f", means to {self.shift:g}"
        factor = math.sqrt(float((1 / std).square().mean()))
        return Adjustment(unit.layer, unit.place.name, factor, before, after, 1, found + means)


def _by_channel(unit: Unit, output: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and std of each channel, `(out,)`, in float64."""
    axis = 1 if len(unit.place.shape) > 2 and output.ndim >= len(unit.place.shape) else output.ndim - 1
    rows = output.detach().double().movedim(axis, 0).flatten(1)
    return rows.mean(1), rows.std(1, correction=0)


def _scale_rows_(layout: Layout, weight: Tensor, factors: Tensor) -> None:
    """Multiply what makes output i by `factors[i]`, also where the weight is stored `(in, out, *kernel)` in groups."""
    first = 0
    for view in layout.views(weight):
        part = factors[first : first + view.shape[0]].to(weight)
        view.mul_(part.view(-1, *[1] * (view.ndim - 1)))
        first += view.shape[0]


# --- between layers --------------------------------------------------------------------------------------------------


def _between_(model: nn.Module, call: Call, units: Sequence[Unit], rounds: int, damping: float) -> None:
    r"""Equalize the relative rates of change of the layers, and see to it that the network's function stays.

    Multiplying $W_k$ by $t_k = (C_k / \bar C)^{1/2}$ divides $C_k$ by $t_k^2$; with the geometric mean as
    $\bar C$ the product of all $t_k$ is 1. A bias is multiplied by the product up to its layer, as its output is.
    """
    computed = [unit.place.name for unit in units if unit.place.kind != "direct"]
    if computed:
        raise ValueError(f"{computed[0]} is computed by its {units[0].place.kind}: set rounds=0, or leave it out")
    state = torch.get_rng_state()
    reference = _output(model, call, state).detach()
    generator = torch.Generator().manual_seed(_SEED)
    for _ in range(rounds):
        rates = relative_rates(model, call, units, generator)
        mean = math.exp(sum(map(math.log, rates)) / len(rates))
        total = 1.0
        for unit, rate in zip(units, rates, strict=True):
            factor = (rate / mean) ** (damping / 2)
            total *= factor
            unit.place.write_(unit.place.read() * factor)
            if unit.bias is not None:
                unit.bias.write_(unit.bias.read() * total)
    change = float((_output(model, call, state).detach() - reference).norm() / reference.norm())
    if not change < _SAME:
        raise ValueError(
            f"equalizing the layers of {type(model).__name__} changed its output by {change:.0%}: that is possible "
            "only where each layer feeds the next through ReLU-like nonlinearities, without normalization or shared "
            "layers; set rounds=0 to normalize within layers only"
        )


def relative_rates(model: nn.Module, call: Call, units: Sequence[Unit], generator: torch.Generator) -> list[float]:
    """Return for each unit the norm of the gradient of its weight, relative to that of the weight: C_k, up to a factor.

    A random direction for each sample makes the squared norm of the summed gradient the sum of the squared norms.

    Raises:
        ValueError: if a weight has no gradient, or is zero.
    """
    weights = [unit.place.parameter for unit in units]
    trained = [weight.requires_grad for weight in weights]
    for weight in weights:
        weight.requires_grad_()
    try:
        output = _output(model, call, torch.get_rng_state())
        direction = torch.randn(output.shape, generator=generator, device="cpu", dtype=torch.float32).to(output)
        gradients = torch.autograd.grad(output, weights, direction, allow_unused=True)
    finally:
        for weight, before in zip(weights, trained, strict=True):
            weight.requires_grad_(before)
    rates = []
    for unit, weight, gradient in zip(units, weights, gradients, strict=True):
        rate = 0.0 if gradient is None else float(gradient.double().norm() / weight.detach().double().norm())
        if not 0 < rate < math.inf:
            raise ValueError(f"layer {unit.layer}: its weight gets no gradient, so its rate of change cannot be set")
        rates.append(rate)
    return rates


def _output(model: nn.Module, call: Call, state: Tensor) -> Tensor:
    """Return the first tensor of the output, with a graph; dropout draws the same masks every time."""
    torch.set_rng_state(state)
    with torch.enable_grad(), naming_layers(model):
        return first_tensor(call.copied()(model))
