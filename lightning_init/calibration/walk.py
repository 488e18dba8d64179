"""One forward pass in which each layer is set right before the next one sees its output."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor, nn

from lightning_init._running import Call, tensors
from lightning_init.calibration.base import Adjustment, Progress, Unit, hooked, run

_ALIKE = 1e-6
"""Share of the mean square up to which a variance counts as rounding: float32 over 4,096 inputs can make 1e-10."""

Again = Callable[[], Tensor]
"""Runs the layer anew on the same input."""


def walk(
    model: nn.Module,
    call: Call,
    units: Sequence[Unit],
    settle: Callable[[Unit, Tensor, Again], Adjustment],
    progress: Progress,
) -> list[Adjustment]:
    """Run `model` once; when a unit runs for the first time, `settle` it, and go on with its new output.

    Args:
        model: the model.
        call: the batch.
        units: in the order in which they run.
        settle: gets the unit, its output and what computes it anew; changes its weight.
        progress: told after each unit.
    """
    done: dict[int, Adjustment] = {index: unit.kept() for index, unit in enumerate(units) if unit.skip}
    inside = False
    failure: list[Exception] = []

    def hook_of(index: int, unit: Unit) -> Callable[..., object]:
        def hook(module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object], output: object) -> object:
            nonlocal inside
            if inside or index in done or not first_tensor(output).numel():  # an expert may get none of the samples
                return None
            latest: list[object] = [output]

            def again() -> Tensor:
                latest[0] = module(*args, **kwargs)
                return first_tensor(latest[0])

            inside = True
            try:
                done[index] = settle(unit, first_tensor(output), again)
            except ValueError as error:
                failure.append(error)  # said as it is, not as a failure of the forward pass
                raise
            finally:
                inside = False
            progress(unit.layer, len(done), len(units))
            return latest[0]

        return hook

    handles = [
        unit.module.register_forward_hook(hook_of(index, unit), with_kwargs=True)
        for index, unit in enumerate(units)
        if not unit.skip
    ]
    with hooked(handles):
        try:
            run(model, call)
        except ValueError:
            if failure:
                raise failure[0] from None
            raise
    unseen = "nothing of this batch reaches it"
    return [done.get(index) or replace(unit, skip=unseen).kept() for index, unit in enumerate(units)]


def first_tensor(output: object) -> Tensor:
    """Return the first floating tensor of what a layer or model returns."""
    found = next((one for one in tensors(output) if one.is_floating_point()), None)
    if found is None:
        raise ValueError(f"the model returns no floating-point tensor, but {type(output).__name__}")
    return found


def variance(values: Tensor) -> float:
    """Return the population variance over everything, in float64; 0 where no more than rounding tells values apart.

    >>> import torch
    >>> variance(torch.tensor([1.0, 3.0])), variance(torch.tensor([1.0, 1.0 + 2**-23]))
    (1.0, 0.0)
    """
    values = values.detach().double()
    found = float(values.var(correction=0))
    return 0.0 if found <= _ALIKE * float(values.square().mean()) else found
