"""What published figures show of an untouched fully connected network: activations and gradients, layer by layer."""

from __future__ import annotations

from typing import NamedTuple

import lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional


class Layer(NamedTuple):
    """One hidden layer of `examples.models.mlp` on N samples.

    `activation` (N, width) is what its nonlinearity returns, `delta` (N, width) the gradient of the summed loss with
    respect to what that takes, `weight_gradient` and `bias_gradient` those of the mean loss.
    """

    activation: Tensor
    delta: Tensor
    weight_gradient: Tensor
    bias_gradient: Tensor


def sample(module: pl.LightningModule, data: pl.LightningDataModule, count: int) -> tuple[Tensor, Tensor]:
    """Return the first `count` training images and their labels, on the device of `module`."""
    images, labels = data.train.tensors
    return images[:count].to(module.device), labels[:count].to(module.device)


def hidden_layers(module: pl.LightningModule, images: Tensor, labels: Tensor) -> list[Layer]:
    """Return every hidden layer of `module.model`, input to output, with cross-entropy as the loss."""
    net = module.model
    before: list[Tensor] = []
    after: list[Tensor] = []

    def keep(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        inputs[0].retain_grad()
        before.append(inputs[0])
        after.append(output)

    names = [name for name, _ in net.named_children() if name.startswith("act")]
    handles = [net.get_submodule(name).register_forward_hook(keep) for name in names]
    try:
        with torch.enable_grad():
            functional.cross_entropy(net(images), labels).backward()
    finally:
        for handle in handles:
            handle.remove()
    layers = [net.get_submodule(name.replace("act", "linear")) for name in names]
    return [
        Layer(output.detach(), taken.grad * len(images), layer.weight.grad.clone(), layer.bias.grad.clone())
        for taken, output, layer in zip(before, after, layers, strict=True)
    ]
