"""Running somebody's model on a batch and leaving no trace: what `diagnose` and the calibrations share."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lightning_init._names import clean

_TARGETS = ("target", "targets", "label", "labels", "y")


@dataclass(frozen=True)
class Call:
    """One forward pass to come: the arguments of the model, and what the batch holds for the loss.

    Args:
        args: positional arguments of `forward`.
        kwargs: keyword arguments of `forward`.
        target: None if the batch has none.
    """

    args: tuple[object, ...]
    kwargs: Mapping[str, object]
    target: object = None

    def __call__(self, model: nn.Module) -> object:
        """Return the model's output."""
        return model(*self.args, **self.kwargs)

    def copied(self, device: torch.device | None = None) -> Call:
        """Return the same with copies of all tensors, on `device` if given: a model may work in place."""
        with torch.inference_mode(mode=False):  # autograd refuses tensors that were made in it
            args = tuple(_copied(one, device) for one in self.args)
            return Call(args, {k: _copied(v, device) for k, v in self.kwargs.items()}, _copied(self.target, device))


def call_of(model: nn.Module, batch: object) -> Call:
    """Return how to call `model` on `batch`; its tensors are copied to the model's device.

    Args:
        model: anything with a `forward`.
        batch: a tensor; a tuple or list `(x, ..., target)`, of which `forward` gets as many as it requires; or a
            mapping, of which it gets the keys that it names.

    Raises:
        TypeError: if the batch has another form.
        ValueError: if it is empty, or holds values that are not finite.

    >>> call_of(nn.Linear(2, 3), (torch.ones(4, 2), torch.zeros(4))).target
    tensor([0., 0., 0., 0.])
    """
    device = next((p.device for p in model.parameters() if not p.is_meta), torch.device("cpu"))
    if isinstance(batch, Tensor):
        call = Call((batch,), {})
    elif isinstance(batch, Mapping):
        call = _of_mapping(model, batch)
    elif isinstance(batch, (tuple, list)):
        call = _of_sequence(model, batch)
    else:
        raise TypeError(
            f"batch must be a tensor, a tuple or list (input, target), or a dict, got {type(batch).__name__}"
        )
    _check_finite(call)
    return call.copied(device)


def _of_sequence(model: nn.Module, batch: Sequence[object]) -> Call:
    if not batch:
        raise ValueError("batch is empty; it must hold the model's input")
    required, _ = _parameters(model.forward)
    inputs = max(1, min(required, len(batch)))
    return Call(tuple(batch[:inputs]), {}, batch[inputs] if len(batch) > inputs else None)


def _of_mapping(model: nn.Module, batch: Mapping[str, object]) -> Call:
    if not batch:
        raise ValueError("batch is empty; it must hold the model's input")
    _, named = _parameters(model.forward)
    target = next((batch[key] for key in _TARGETS if key in batch), None)
    if named is None:
        return Call((), dict(batch), target)
    kwargs = {key: value for key, value in batch.items() if key in named}
    return Call((), kwargs, target) if kwargs else Call((dict(batch),), {}, target)


def _parameters(function: Callable[..., object]) -> tuple[int, frozenset[str] | None]:
    """Return how many positional parameters are required, and the names of all; None if it takes any keyword."""
    parameters = inspect.signature(function).parameters.values()
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = sum(p.default is p.empty for p in positional)
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return required, None
    return required, frozenset(p.name for p in parameters)


def positional_parameters(function: Callable[..., object]) -> int | None:
    """Return how many positional arguments `function` can take; None if it does not say, or takes any number.

    >>> positional_parameters(lambda output: output), positional_parameters(nn.MSELoss())
    (1, 2)
    """
    target = function.forward if isinstance(function, nn.Module) else function
    try:
        parameters = inspect.signature(target).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return None
    return sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)


def tensors(value: object) -> Iterator[Tensor]:
    """Yield the tensors in nested tuples, lists and mappings.

    >>> [one.shape for one in tensors({"a": [torch.ones(2), "b"]})]
    [torch.Size([2])]
    """
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from tensors(part)
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from tensors(part)


def _copied(value: object, device: torch.device | None) -> object:
    """Return `value` with copies of its tensors on `device` (None: where they are): a model may work in place."""
    if isinstance(value, Tensor):
        return value.detach().to(device or value.device, copy=True)
    if isinstance(value, Mapping):
        return {key: _copied(part, device) for key, part in value.items()}
    if isinstance(value, (tuple, list)):
        parts = [_copied(part, device) for part in value]
        make: Callable[..., object] = type(value)
        return make(*parts) if hasattr(value, "_fields") else make(parts)
    return value


def _check_finite(call: Call) -> None:
    for tensor in tensors([*call.args, *call.kwargs.values()]):
        if tensor.numel() == 0:
            raise ValueError(f"batch holds an empty tensor of shape {tuple(tensor.shape)}")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            bad = int((~torch.isfinite(tensor)).sum())
            raise ValueError(
                f"batch must be finite, but {bad} of the {tensor.numel()} values of its input of shape "
                f"{tuple(tensor.shape)} are nan or inf"
            )


def refuse_unready(model: nn.Module) -> None:
    """Raise ValueError for a model that cannot run, or whose weights are no numbers, naming the parameter."""
    for name, parameter in model.named_parameters():
        if is_lazy(parameter):
            raise ValueError(
                f"{clean(name, model)} has no shape yet (a lazy parameter): run one batch through the model first"
            )
        if parameter.is_meta:
            raise ValueError(
                f"{clean(name, model)} is on the meta device and has no values: call model.to_empty(device=...)"
            )
        if parameter.is_floating_point() and not bool(torch.isfinite(parameter).all()):
            raise ValueError(f"{clean(name, model)} holds values that are not finite: initialize the model first")


@contextmanager
def as_it_was(model: nn.Module) -> Iterator[None]:
    """Put back, when left, everything of `model` but its parameters, and every random stream.

    That is train or eval mode of each module, buffers (running statistics), and which gradient each parameter holds.
    Compiled parts run eagerly meanwhile, so that hooks see every layer.
    """
    modes = [(module, module.training) for module in model.modules()]
    buffers = [
        (module, name, buffer, None if buffer is None else buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()  # noqa: SLF001 (the public view hides which module owns it)
    ]
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    others = random.getstate(), np.random.get_state()
    kind = next((p.device.type for p in model.parameters() if p.device.type != "cpu"), "cuda")
    used = {p.device.index for p in model.parameters() if p.device.type == kind}
    devices = [index or 0 for index in used]
    with torch.random.fork_rng(devices, device_type=kind), torch.compiler.set_stance("force_eager"):
        try:
            yield
        finally:
            for module, training in modes:
                module.training = training
            for module, name, buffer, copy in buffers:
                module._buffers[name] = buffer  # noqa: SLF001 (put back where it was found)
                if buffer is not None and copy is not None:
                    buffer.data.copy_(copy)
            for parameter, gradient in gradients:
                parameter.grad = gradient
            random.setstate(others[0])
            np.random.set_state(others[1])


@contextmanager
def naming_layers(model: nn.Module) -> Iterator[None]:
    """Turn what `model` raises inside into a ValueError that says in which layer it happened.

    >>> with naming_layers(model := nn.Sequential(nn.Linear(2, 3), nn.Linear(4, 1))):
    ...     model(torch.ones(1, 2))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    ValueError: the forward pass fails in layer 1 (Linear, weight 1x4): RuntimeError: ...mat1 and mat2 shapes cannot ...
    """
    inside: list[tuple[str, nn.Module]] = []

    def enter(name: str) -> Callable[[nn.Module, object], None]:
        return lambda module, _args: inside.append((name, module))

    def leave(module: nn.Module, _args: object, _output: object) -> None:
        while inside and inside.pop()[1] is not module:
            pass

    handles = []
    for path, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            continue
        handles.append(
            module.register_forward_pre_hook(enter(clean(path, model) or type(model).__name__), prepend=True)
        )
        handles.append(module.register_forward_hook(leave))
    try:
        yield
    except Exception as error:
        name, module = inside[-1] if inside else (type(model).__name__, model)
        raise ValueError(
            f"the forward pass fails in layer {name} ({_described(module)}): {_sentence(error)}"
        ) from error
    finally:
        for handle in handles:
            handle.remove()


def _described(module: nn.Module) -> str:
    weight = getattr(module, "weight", None)
    shape = f", weight {'x'.join(map(str, weight.shape))}" if isinstance(weight, Tensor) else ""
    return f"{type(module).__name__}{shape}"


def _sentence(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
