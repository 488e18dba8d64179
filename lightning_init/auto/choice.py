"""From what was found around a layer to its initializer, and the reason in words."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from lightning_init.auto.structure import Found, Structure
from lightning_init.auto.theory import Setting, pooled, recurrent_square, setting
from lightning_init.gains import exact
from lightning_init.initializers.base import Initializer
from lightning_init.initializers.looks_linear import LooksLinear
from lightning_init.initializers.variance_scaling import VarianceScaling
from lightning_init.nonlinearities import Nonlinearity, resolve

LONG = 5
"""Layers from which a chain gets isometries; in a shorter one independent weights do, and nothing adds up."""
STEEP = 2.0
"""Growth of the squared gradient per layer at unit variance that even a short chain does not get away with; that behind
sin(30 x) is 900."""
BORDERS = 16
"""Convolutions from which padding takes more than half of the signal, so that only the middle tap is used."""


@dataclass(frozen=True)
class Choice:
    """What a weight gets.

    Args:
        initializer: the law.
        why: what was found, and what follows from it.
        variance: of the layer's output, as planned: what a correction with data sets.
    """

    initializer: Initializer
    why: str
    variance: float


def choices(structure: Structure, square: float | None, shared: float | None = None) -> dict[str, Choice]:
    """Return layer name -> what its weight gets.

    Args:
        structure: of the model.
        square: mean square of the model's input; None if it is not known, and then taken to be 1.
        shared: what neighbours in an image have in common, from 0 to 1 (`theory.pooled`); None if it is not known, and
            then max pooling is taken to change nothing.
    """
    growth = _growth(structure, shared)
    return {name: _choice(one, structure, square, growth.get(name, 1.0)) for name, one in structure.layers.items()}


def _growth(structure: Structure, shared: float | None) -> dict[str, float]:
    """Return layer name -> what the max pooling in front multiplies the mean square by, along chains from the input."""
    known: dict[str, float] = {}  # layer -> what neighbours in its output share
    growth: dict[str, float] = {}
    if shared is None or all(one.window == 1 for one in structure.layers.values()):
        return growth
    for name, one in structure.layers.items():
        if one.first:
            known[name] = shared
        elif one.source in known and not one.normalized:
            before = structure.layers[one.source]
            function = before.feeds[name]
            found, symmetry, q = _setting(function, one.chain), "none", 1.0
            if one.chain >= LONG and found is not None:
                q = found.q
                symmetry = found.symmetry if found.symmetry != "mirrored" or _pairs(before, one) else "none"
            f = "linear" if function is None else function
            growth[name], known[name] = pooled(f, symmetry, q, one.window, round(known[one.source], 4))
    return growth


def _choice(found: Found, structure: Structure, square: float | None, growth: float) -> Choice:
    try:
        chained = (found.chain >= LONG or _steep(found)) and _dense(found.module)
        initializer, variance, why = (_in_chain if chained else _alone)(found, structure, square)
    except ValueError as error:  # such as a nonlinearity that is constant
        raise ValueError(f"around layer {found.name}: {error}") from error
    if found.window > 1 and growth != 1:
        initializer = _scaled(initializer, 1 / math.sqrt(growth))
        why += f", behind the largest of {found.window} values (mean square x {growth:.2f})"
    if found.recurrent is not None:
        square = recurrent_square(found.recurrent, found.stacked)
        initializer = _scaled(initializer, 1 / math.sqrt(square))
        why += f", behind {found.recurrent} (mean square {square:.2g})"
    if found.kept < 1:
        initializer = _scaled(initializer, math.sqrt(found.kept))
        why += f", behind a dropout that keeps {found.kept:.2g} (gain x {math.sqrt(found.kept):.2f})"
    if found.branch:
        factor = 1 / math.sqrt(structure.additions)
        initializer, variance = _scaled(initializer, factor), variance * factor**2
        why += f", ends one of {structure.additions} residual branches (x {factor:.3f})"
    if found.head:
        why += f", last layer: outputs of variance {variance:.3g}"
    return Choice(initializer, why, variance)


def _scaled(initializer: VarianceScaling | LooksLinear, factor: float) -> VarianceScaling | LooksLinear:
    if isinstance(initializer, LooksLinear):
        return LooksLinear(**{**vars(initializer), "gain": initializer.gain * factor})
    return VarianceScaling(initializer.scale * factor**2, initializer.mode, initializer.distribution)


# --- by itself ------------------------------------------------------------------------------------------------------


def _alone(found: Found, structure: Structure, square: float | None) -> tuple[VarianceScaling, float, str]:
    """Keep the mean square of what comes in, by the nonlinearity in front."""
    del structure
    if found.first:
        gain, why = _entry(found, 1.0, square)
    elif found.normalized:
        gain, why = 1.0, "behind a normalization: gain 1"
    elif found.front is None:
        gain, why = 1.0, "no nonlinearity in front: gain 1"
    else:
        gain = exact(found.front).forward
        why = f"behind {'a gate with ' if found.gated else ''}{_label(found.front)}: gain {gain:.4g}"
    return VarianceScaling(gain**2, "fan_in", "normal"), 1.0, why


def _entry(found: Found, q: float, square: float | None) -> tuple[float, str]:
    """Return the gain of a layer that sees the model's inputs and whose outputs are to have variance q."""
    what = "behind shortcuts from the inputs" if found.shortcut else "first layer"
    if square is None:
        return math.sqrt(q), f"{what}: variance {q:.3g} if inputs have mean square 1 (not known)"
    return math.sqrt(q / square), f"{what}: variance {q:.3g} from inputs of mean square {square:.3g}"


# --- in a chain -----------------------------------------------------------------------------------------------------


def _in_chain(found: Found, structure: Structure, square: float | None) -> tuple[LooksLinear, float, str]:
    """Keep signals over the whole chain: isometries, and for most nonlinearities units in pairs."""
    before = structure.layers[found.source] if found.source else None
    arrives = _setting(before.feeds[found.name], found.chain) if before else None
    leaves = [s for s in (_setting(function, found.chain) for function in found.feeds.values()) if s is not None]
    variance = leaves[0].q if leaves else arrives.q if arrives else 1.0  # a last layer keeps what it gets
    columns = _pairs(before, found) if before and arrives and arrives.symmetry == "mirrored" else 0
    centred = arrives is not None and arrives.symmetry == "centred" and _sizes(found.module)[0] > 1
    rows = any(_paired(found, structure.layers[name]) for name in found.feeds)
    if arrives is not None:
        gain, why = _behind(arrives, before.feeds[found.name] if before else None, bool(columns) or centred, variance)
    elif found.first:
        gain, why = _entry(found, variance, square)
    else:
        own = exact(found.front).forward if found.front is not None and not found.normalized else 1.0
        gain, why = own * math.sqrt(variance), f"begins a chain: variance {variance:.3g}"
    why += f"; chain of {found.chain} layers: isometry" + (", units in pairs u and -u" if rows else "")
    middle = isinstance(found.module, _ConvNd) and found.chain >= BORDERS and max(found.module.kernel_size) > 1
    return LooksLinear(gain, rows, columns, centred, middle), variance, why + (", middle tap only" if middle else "")


def _behind(arrives: Setting, function: Nonlinearity | None, arranged: bool, variance: float) -> tuple[float, str]:
    """Return the gain behind a nonlinearity, and why; `arranged`: the weights do what its symmetry asks of them."""
    name = _label(function)
    if arrives.symmetry in ("mirrored", "centred") and not arranged:
        arrives = Setting("none", exact(function or "linear").forward, 1.0, 1.0, 1.0)
    how = {
        "odd": f"{name} is odd",
        "centred": f"{name} is odd but for its mean, which the weights ignore",
        "mirrored": f"pairs show the odd part of {name}",
        "none": f"{name} as it is",
    }[arrives.symmetry]
    kept = f"variance {arrives.q:.3g} and gradients (x {arrives.chi:.4f} per layer) are kept"
    return arrives.sigma_w * math.sqrt(variance / arrives.q), f"{how}: gain {arrives.sigma_w:.4g}, {kept}"


def _steep(found: Found) -> bool:
    """Return whether a nonlinearity around a layer asks for a small variance, as sin(30 x) does, in any chain."""
    functions = [function for function in (found.front, *found.feeds.values()) if function is not None]
    return any(exact(f).chi > STEEP for f in functions)


def _setting(function: Nonlinearity | None, chain: int) -> Setting | None:
    return setting("linear" if function is None else function, chain)


def _pairs(before: Found, found: Found) -> int:
    """Return how far apart the partners are among the inputs of `found`; 0 if they are not pairs."""
    if not _dense(before.module) or not _dense(found.module) or before.chain < LONG:
        return 0
    units, inputs = _sizes(before.module)[1], _sizes(found.module)[0]
    return 0 if inputs % units or units < 2 else (units // 2) * (inputs // units)


def _paired(found: Found, target: Found) -> bool:
    function = _setting(found.feeds[target.name], target.chain)
    return function is not None and function.symmetry == "mirrored" and _pairs(found, target) > 0


def _dense(module: nn.Module) -> bool:
    """Return whether every output is connected to every input, in a plain `(out, in, *kernel)` weight."""
    if isinstance(module, _ConvNd):
        return module.groups == 1 and not isinstance(module, _ConvTransposeNd)
    return isinstance(module, nn.Linear)


def _sizes(module: nn.Module) -> tuple[int, int]:
    if isinstance(module, _ConvNd):
        return module.in_channels, module.out_channels
    assert isinstance(module, nn.Linear)
    return module.in_features, module.out_features


def _label(function: Nonlinearity | None) -> str:
    return "linear" if function is None else resolve(function).label
