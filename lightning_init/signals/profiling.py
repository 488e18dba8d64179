"""Profiling: one forward and one backward pass through a model, with a meter on every layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

import torch
from torch import Tensor, nn

from lightning_init._running import Call, as_it_was, naming_layers, positional_parameters, refuse_unready
from lightning_init.signals.expectation import Expectation
from lightning_init.signals.layers import find_layers, first_tensor
from lightning_init.signals.meter import Meter, tell_inputs, watching
from lightning_init.signals.profile import Profile

Loss: TypeAlias = Callable[..., Tensor]
_SEED = 20100513  # of the random output gradient: any number, always the same


def measure(model: nn.Module, call: Call, loss: Loss | None = None) -> Profile:
    """Return the depth profile of one forward and one backward pass; the model is left as it was.

    Args:
        model: in the mode (train or eval) in which it is to be seen.
        call: from `lightning_init._running.call_of`.
        loss: `(output, target) -> scalar` or `(output) -> scalar`; None sends a random gradient of unit variance from
            the output instead.

    Raises:
        ValueError: if the model cannot run, or the loss is no scalar that depends on the model.

    >>> model = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 1))
    >>> profile = measure(model, Call((torch.ones(8, 64),), {}))
    >>> [layer.name for layer in profile.layers], profile.spine[1].front
    (['0', '1', '2'], 'relu')
    """
    refuse_unready(model)
    meters = [Meter(layer) for layer in find_layers(model)]
    expectation = Expectation()
    with as_it_was(model), torch.inference_mode(mode=False), torch.enable_grad():
        tell_inputs(expectation, [*call.args, *call.kwargs.values()])
        with naming_layers(model), watching(meters, expectation), expectation:
            output = call(model)
        value, gradients = _backward(model, output, call.target, loss)
        ran = sorted((meter for meter in meters if meter.order), key=lambda meter: meter.order)
        profiles = [meter.profile(gradients) for meter in ran]
        layers = tuple(
            replace(one, normalized=one.spine and "Norm" in after.kind)
            for one, after in zip(profiles, [*profiles[1:], *profiles[-1:]], strict=True)
        )
    if not layers:
        raise ValueError(f"no layer of {type(model).__name__} ran in its forward pass")
    return Profile(layers, tuple(_idle(meters)), value, tuple(_cut(ran, gradients)))


def _idle(meters: Sequence[Meter]) -> Iterator[str]:
    for meter in meters:
        inside_attention = isinstance(meter.layer.parent, nn.MultiheadAttention)  # which calls out_proj by itself
        if not meter.order and meter.layer.parameters and not inside_attention:
            yield meter.layer.name


def _cut(ran: Sequence[Meter], gradients: Mapping[nn.Parameter, Tensor]) -> Iterator[str]:
    for meter in ran:
        own = [parameter for parameter in meter.layer.parameters if parameter.requires_grad]
        if own and not any(parameter in gradients for parameter in own):
            yield meter.layer.name


def _backward(
    model: nn.Module, output: object, target: object, loss: Loss | None
) -> tuple[float | None, dict[nn.Parameter, Tensor]]:
    """Return the loss and the gradients of the parameters; none are accumulated anywhere."""
    root = first_tensor(output)
    if root is None:
        raise ValueError(f"{type(model).__name__} returns no floating-point tensor, but {type(output).__name__}")
    weight, value = None, None
    if loss is None:
        generator = torch.Generator().manual_seed(_SEED)
        weight = torch.randn(root.shape, generator=generator, device="cpu", dtype=torch.float32).to(root)
    else:
        root = _loss(loss, output, target)
        value = float(root.detach())
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trained or not root.requires_grad:
        if trained and loss is not None:
            raise ValueError("loss must depend on the parameters of the model, but no gradient leads back to them")
        return value, {}
    try:
        found = torch.autograd.grad(root, trained, weight, allow_unused=True)
    except RuntimeError as error:
        raise ValueError(f"the backward pass fails: {' '.join(str(error).split())}") from error
    return value, {p: g.detach() for p, g in zip(trained, found, strict=True) if g is not None}


def _loss(loss: Loss, output: object, target: object) -> Tensor:
    takes = positional_parameters(loss)
    if target is None and takes is not None and takes >= 2:
        raise ValueError("loss takes (output, target), but the batch holds no target: give (input, target) as batch")
    arguments = (output,) if target is None or takes == 1 else (output, target)
    try:
        value = loss(*arguments)
    except Exception as error:
        raise ValueError(f"the loss fails on the model's output: {' '.join(str(error).split())}") from error
    if not isinstance(value, Tensor) or value.numel() != 1:
        got = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"loss must return a scalar tensor, got {got}")
    return value.reshape(())
