"""What a monitor asks a Trainer about the step that it is at."""

from __future__ import annotations

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from lightning_init.signals.reading import Gather


def gather_from(trainer: Trainer) -> Gather:
    """Return what stacks a tensor from all ranks, over the device that the strategy's collectives use."""

    def gather(mine: Tensor) -> Tensor:
        device = trainer.strategy.root_device
        mine = mine.to(device, torch.float32 if device.type == "mps" else mine.dtype)
        ranks = [torch.empty_like(mine) for _ in range(trainer.world_size)]
        torch.distributed.all_gather(ranks, mine)
        return torch.stack(ranks).cpu()

    return gather


def step_index(trainer: Trainer) -> int:
    """Return the x of what `self.log` logs now (`global_step` counts every optimizer and so differs; PL#20346).

    Lightning has no public name for it; its own LearningRateMonitor reads it in the same way.
    """
    return trainer.fit_loop.epoch_loop._batches_that_stepped  # noqa: SLF001 (no public name)


def parameters_of(optimizer: torch.optim.Optimizer, trainer: Trainer) -> set[nn.Parameter] | None:
    """Return the parameters that `optimizer` is about to update; None if there is no other optimizer."""
    if len(trainer.optimizers) == 1:
        return None
    return {parameter for group in optimizer.param_groups for parameter in group["params"]}


def scale_of(optimizer: torch.optim.Optimizer, trainer: Trainer) -> Tensor | None:
    """Return the scale that the gradients still carry.

    Lightning has AMP's scaler unscale them before its hook, except where the optimizer does that itself (fused=True).
    """
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    if scaler is None or not getattr(optimizer, "_step_supports_amp_scaling", False):
        return None
    scale: Tensor | None = scaler._scale  # noqa: SLF001 (get_scale() would wait for the device)
    return scale
