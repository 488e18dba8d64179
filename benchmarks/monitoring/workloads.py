"""What is trained while monitoring is measured: W1 and W3 are quick, which is where monitoring hurts; W2 is not."""

from __future__ import annotations

import itertools

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn


def mlp(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(widths):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def resnet18() -> nn.Module:
    from torchvision.models import resnet18 as build

    return build(num_classes=10)


WORKLOADS = {
    "W1": (lambda: mlp(784, 256, 256, 256, 256, 10), (128, 784)),
    "W2": (resnet18, (32, 3, 64, 64)),
    "W3": (lambda: mlp(*[64] * 101), (64, 64)),
}


class Lit(LightningModule):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        del batch_idx
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-3, momentum=0.9)


def trainer_for(directory: str, *callbacks: Callback, **options: object) -> Trainer:
    return Trainer(
        accelerator="cpu",
        logger=TensorBoardLogger(directory),
        callbacks=list(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        log_every_n_steps=1,
        **options,
    )
