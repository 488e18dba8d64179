"""Verdicts: what a depth profile says in words, which layer and direction it speaks of, and what would cure it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, TypeAlias

from lightning_init.gains import exact
from lightning_init.nonlinearities import resolve
from lightning_init.signals.profile import LayerProfile, Profile, Trend
from lightning_init.theory import edge_of_chaos

Kind: TypeAlias = Literal["vanishing", "exploding", "dead", "saturated", "symmetric", "healthy"]
Direction: TypeAlias = Literal["forward", "backward"]

DECADES = 3.0
"""A signal whose variance changes by more than this, in decades, over the depth or in one layer, is ill."""
NORMALIZED_DECADES = 6.0
"""The same where most layers stand before a normalization: their scale is set right anew at every step, and gradients
that grow steadily towards the input belong to healthy networks with batch normalization too."""
DEAD = 0.9
"""Share of a layer's units; half of them are zero for all samples by chance, where a deep ReLU network has made all
samples alike."""
SATURATED = 0.5
"""Share of a layer's values."""
SYMMETRIC = 0.5
"""Share of a layer's units."""
_LARGE = 1e6
"""Variance below which no half precision overflows: what is not finite all the same was made so by an operation."""
_SHELTER = "add normalization layers or residual connections"
_AS_TARGETED = 1.25
"""A weight std within this factor of the target is not the cause."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Args:
        kind: what it is called.
        layer: where it is, or where it begins.
        direction: of the signal that suffers; None for symmetry.
        text: what was seen, in a sentence.
        cure: what to change, in a sentence.
    """

    kind: Kind
    layer: str
    direction: Direction | None
    text: str
    cure: str


def findings(profile: Profile) -> tuple[Finding, ...]:
    """Return what is wrong, the gravest first; empty for a healthy network."""
    broken = list(_nonfinite(profile))
    symmetric = list(_symmetric(profile))
    flow = [] if broken or symmetric else [*_forward(profile), *_backward(profile)]
    lost = broken or symmetric or any(finding.kind == "vanishing" for finding in flow)
    dead = [] if lost else list(_dead(profile))
    return (*broken, *symmetric, *dead, *flow, *_saturated(profile))


def asleep(profile: Profile) -> str | None:
    """Return the layer whose zero weights keep the gradient from what stands before it, at the first step only.

    Its own gradient is not zero, so the first update opens the way: a head or a residual branch that starts at zero.
    """
    for layer in profile.layers:
        if layer.weight_std == 0 and layer.gradient_norm and not (layer.dead is not None and layer.dead >= DEAD):
            return layer.name
    return None


def healthy(profile: Profile) -> str:
    """Return the sentence for a network without findings."""
    parts = [
        f"{what} by {_decades(line.slope)} per layer"
        for what, line in (("activations change", profile.forward), ("gradients, on their way back,", profile.backward))
        if line is not None
    ]
    return f"over {len(profile.spine)} layers with weights, {' and '.join(parts) or 'nothing is out of bounds'}"


# --- one function per illness ----------------------------------------------------------------------------------------


def _nonfinite(profile: Profile) -> Iterator[Finding]:
    layer = next((one for one in profile.layers if one.nonfinite), None)
    if layer is not None:
        largest = max((v for one in profile.layers if (v := one.activation_variance) and math.isfinite(v)), default=0.0)
        sudden = not _finite(layer.input_square) and largest < _LARGE
        cure = f"look at what is computed in front of layer {layer.name}, such as a logarithm, a root or a division"
        yield Finding(
            "exploding",
            layer.name,
            "forward",
            f"layer {layer.name} is the first whose output is not finite (nan or inf); the largest finite variance of "
            f"any layer is {largest:.2g}",
            cure if sudden else _cure_forward(profile, "exploding", layer),
        )
    elif profile.loss is not None and not math.isfinite(profile.loss):
        last = profile.layers[-1]
        text = f"every layer's output is finite, but the loss is {profile.loss}"
        yield Finding("exploding", last.name, "forward", text, "make the loss take what the last layer gives it")
    else:
        bad = [one for one in profile.layers if not _finite(one.gradient_norm) or not _finite(one.gradient_energy)]
        if bad:
            text = f"the gradient stops being finite at layer {bad[-1].name}, on its way back from the output"
            yield Finding("exploding", bad[-1].name, "backward", text, _cure_backward(profile, "exploding", bad[-1]))


def _symmetric(profile: Profile) -> Iterator[Finding]:
    same = [one for one in profile.spine if one.symmetric is not None and one.symmetric > SYMMETRIC]
    if same:
        layer = max(same, key=lambda one: one.symmetric or 0.0)
        zero = " (they are all zero)" if layer.weight_std == 0 and _dark(layer) else ""
        yield Finding(
            "symmetric",
            layer.name,
            None,
            f"{layer.symmetric:.0%} of the units of layer {layer.name} have the same weights as another{zero} and get "
            f"the same gradient, so they stay copies for ever{_others(same, layer)}",
            f"draw the weights at random: {_call(profile)}",
        )


def _dark(layer: LayerProfile) -> bool:
    return not layer.predicted_variance and not layer.activation_variance


def _dead(profile: Profile) -> Iterator[Finding]:
    dead = [one for one in profile.layers if one.dead is not None and one.dead >= DEAD]
    sleeper = asleep(profile)
    unfed = [one for one in profile.spine if one.input_square == 0]
    if unfed and sleeper is None and (not dead or unfed[0] is profile.spine[0]):
        name = unfed[0].name
        where = "at the batch, and " if unfed[0] is profile.spine[0] else ""
        text = f"nothing but zeros enters layer {name}{_others(unfed, unfed[0])}, so its weights do nothing"
        yield Finding("dead", name, "forward", text, f"look {where}at what is computed in front of layer {name}")
        return
    if not dead:
        return
    if sleeper is not None and all(one.gradient_energy == 0 and one.activation_variance for one in dead):
        return
    ends = (a for a, b in zip(profile.spine, (*profile.spine[1:], None), strict=True) if a in dead and b not in dead)
    layer = next((one for one in dead if not one.spine), None) or next(ends)  # what dies, not what stands before it
    zeros = "gives zero" if not layer.spine else "gets no gradient"
    cause = next((one for one in profile.spine if one.weight_std == 0), None)
    whose = "its biases and what they meet" if layer.spine else "the biases of the layer before it"
    blame = f"the weights of layer {cause.name} are all equal" if cause else f"look at {whose}"
    yield Finding(
        "dead",
        layer.name,
        "backward" if layer.spine else "forward",
        f"{layer.dead:.0%} of the units of layer {layer.name} are dead: each {zeros} for every sample of the "
        f"batch{_others(dead, layer)}",
        f"{blame}; start with {_call(profile)}, which also sets the biases to zero",
    )


def _forward(profile: Profile) -> Iterator[Finding]:
    line = profile.forward
    if line is not None and abs(line.drift) >= _limit(profile):
        kind: Kind = "vanishing" if line.drift < 0 else "exploding"
        layer = _beyond(profile.spine, profile.spine[0].input_square, line)
        values = [v for one in profile.spine if (v := one.activation_variance)]
        yield Finding(
            kind,
            layer.name,
            "forward",
            f"activations {'shrink' if line.drift < 0 else 'grow'} on their way forward: their variance changes by "
            f"{_decades(line.slope)} per layer, from {profile.spine[0].input_square or values[0]:.2g} at the input to "
            f"{values[-1]:.2g}; from layer {layer.name} on it is more than a factor 1000 off",
            _cure_forward(profile, kind, layer),
        )
        return
    steps = [(one, one.step) for one in profile.spine if one.step is not None and abs(one.step) >= DECADES]
    last = profile.spine[-1] if profile.spine else None  # a head may start small
    steps = [(one, step) for one, step in steps if not one.normalized and (step > 0 or one is not last)]
    steps = [(one, step) for one, step in steps if step > 0 or not _restored(profile, one)]
    if steps:
        layer, step = max(steps, key=lambda pair: abs(pair[1]))
        kind = "vanishing" if step < 0 else "exploding"
        text = (
            f"layer {layer.name} alone changes the variance of its signal by {_decades(step)}; the other layers do not"
        )
        text = text if len(steps) == 1 else f"layer {layer.name} changes the variance of its signal by {_decades(step)}"
        yield Finding(kind, layer.name, "forward", text, _cure_forward(profile, kind, layer))


def _restored(profile: Profile, layer: LayerProfile) -> bool:
    """Return whether the next layer gets what this one made small in its old size: through sin(30 x), for one."""
    follower = next((b for a, b in pairwise(profile.spine) if a is layer), None)
    if follower is None or not follower.input_square or not layer.input_square:
        return False
    return abs(math.log10(follower.input_square / layer.input_square)) < DECADES / 2


def _backward(profile: Profile) -> Iterator[Finding]:
    line = profile.backward
    if line is None or abs(line.drift) < _limit(profile):
        return
    kind: Kind = "vanishing" if line.drift < 0 else "exploding"
    order = profile.spine[::-1]
    layer = _beyond(order, order[0].gradient_energy, line, backward=True)
    yield Finding(
        kind,
        layer.name,
        "backward",
        f"gradients {'shrink' if line.drift < 0 else 'grow'} on their way back: their squared norm changes by "
        f"{_decades(line.slope)} per layer towards the input; from layer {layer.name} down it is more than a factor "
        "1000 off",
        _cure_backward(profile, kind, layer),
    )


def _saturated(profile: Profile) -> Iterator[Finding]:
    full = [one for one in profile.layers if one.saturated is not None and one.saturated >= SATURATED]
    if full:
        layer = full[0]
        before = next((a for a, b in pairwise(profile.layers) if b is layer and a.spine), None)
        target = None if before is None or before.fan_in is None else 1 / math.sqrt(before.fan_in)
        large = before is not None and before.weight_std and target is not None and before.weight_std > target
        std = f" (now {before.weight_std:.2g}, {target:.2g} would do)" if large and before else ""
        yield Finding(
            "saturated",
            layer.name,
            "forward",
            f"{layer.saturated:.0%} of the outputs of layer {layer.name} ({layer.kind}) are at its bounds, where it "
            f"passes on no gradient{_others(full, layer)}",
            f"make what enters it smaller: smaller weights or biases in front of it{std}, or inputs of unit variance",
        )


def _limit(profile: Profile) -> float:
    normalized = sum(layer.normalized for layer in profile.spine)
    return NORMALIZED_DECADES if normalized > len(profile.spine) / 2 else DECADES


# --- words -----------------------------------------------------------------------------------------------------------


def _beyond(
    order: tuple[LayerProfile, ...], start: float | None, line: Trend, *, backward: bool = False
) -> LayerProfile:
    """Return the first layer, in the signal's direction, at which it is a factor of 1000 off its start."""
    for layer in order:
        value = layer.gradient_energy if backward else layer.activation_variance
        gone = value == 0 or (value and start and abs(math.log10(value / start)) >= DECADES)
        if gone:
            return layer
    return order[-1 if abs(line.drift) >= DECADES else 0]


def _cure_forward(profile: Profile, kind: Kind, layer: LayerProfile) -> str:
    """Say by how much the weights miss the std that keeps the variance, and what sets it."""
    known = [one for one in profile.spine if one.weight_std and one.target_std]
    off = [one for one in known if not 1 / _AS_TARGETED < _ratio(one) < _AS_TARGETED]
    if kind == "exploding" and known and all(_ratio(one) * _AS_TARGETED < 1 for one in known):
        return (
            "no weight is too large: the biases make most of it, and the inputs may be too small; "
            f"{_call(profile)} also sets the biases to zero"
        )
    if layer in off or len(off) > len(known) / 2:
        one = layer if layer in off else off[0]
        front = "" if one.front in (None, "linear") else f" behind {one.front}"
        return (
            f"the weights of layer {one.name} have std {one.weight_std:.3g}, where {one.target_std:.3g} keeps the "
            f"variance{front} (fan_in {one.fan_in:g}): {_call(profile)}"
        )
    if known and _front(profile) is not None and len(known) > len(profile.spine) / 2:
        return (
            f"every weight has the std that keeps unit variance, but {_front(profile)} makes that unstable in such "
            f"depth: {_critical(profile)}"
        )
    if known:  # the std that keeps the variance is known of few layers, and those have it
        return f'scale each layer on a batch: calibrate(model, "lsuv", [batch]); or {_SHELTER}'
    return f"give each layer the std that keeps the variance: {_call(profile)}"


def _cure_backward(profile: Profile, kind: Kind, layer: LayerProfile) -> str:
    """Say which std keeps gradients, where there is one."""
    weighted = [one for one in profile.spine if one.weight_std and one.target_std]
    off = [one for one in weighted if (_ratio(one) > _AS_TARGETED if kind == "exploding" else _ratio(one) < 0.8)]
    if len(off) > len(weighted) / 2:
        return _cure_forward(profile, kind, layer if layer in off else off[0])
    return _critical(profile)


def _critical(profile: Profile) -> str:
    front = _front(profile)
    if front is None:
        return _SHELTER
    try:
        point = edge_of_chaos(front)
    except (ValueError, TypeError, NotImplementedError):
        return f"{front} has no std without biases that keeps both directions; {_SHELTER}, or take another nonlinearity"
    std = "the weights need std 1" if point.sigma_w == 1 else f"the weights need std {point.sigma_w:.4g}"
    call = f"initialize(model, EdgeOfChaos({front!r}))"
    return f"{std} / sqrt(fan_in) behind {front} (the edge of chaos): {call}; or {_SHELTER}"


def _call(profile: Profile) -> str:
    """Return the call that sets what the nonlinearity of this network needs."""
    front = _front(profile)
    if front in ("linear", "selu"):
        return 'initialize(model, "lecun_normal")'
    if front is None or front == "relu":
        return 'initialize(model, "he_normal")'
    return f'initialize(model, "he_normal", nonlinearity="{front}")'


def _front(profile: Profile) -> str | None:
    """Return the nonlinearity that stands in front of most layers, by a name that can be passed on; None if unknown."""
    counts: dict[str, int] = {}
    for layer in profile.spine[1:] or profile.spine:
        if layer.front is not None:
            counts[layer.front] = counts.get(layer.front, 0) + 1
    for label in sorted(counts, key=lambda one: -counts[one]):
        name = label.partition("(")[0]
        try:
            exact(resolve(name).label)
        except (ValueError, TypeError, NotImplementedError):
            continue
        return name
    return None


def _ratio(layer: LayerProfile) -> float:
    return (layer.weight_std or 0.0) / (layer.target_std or math.inf)


def _decades(slope: float) -> str:
    return f"{slope:+.2f} decades (a factor {10**slope:.2g})"


def _others(all_of_them: Iterable[LayerProfile], named: LayerProfile) -> str:
    count = sum(one is not named for one in all_of_them)
    return f" (and so in {count} other layer{'s' if count > 1 else ''})" if count else ""


def _finite(value: float | None) -> bool:
    return value is None or math.isfinite(value)
