"""Plain networks of 50 layers, and of 1,000, on Fashion-MNIST: which initializers let them train at all.

    python -m benchmarks.deep_training [--nonlinearities Tanh ...] [--initializers auto ...] [--thousand]

Writes benchmarks/results/deep_training.json: validation accuracy after two epochs of SGD with momentum, the same for
all, without normalization or shortcuts. `--thousand` trains 1,000 tanh layers from `orthogonal` for some hundred steps
while SignalMonitor follows all of them at every step. Rows that are in the file and were not asked for stay.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import warnings
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn

from benchmarks.environment import environment
from examples.data import ImageData, torchvision_images
from lightning_init import InitCallback, SignalMonitor

RESULTS = Path(__file__).parent / "results" / "deep_training.json"
NONLINEARITIES = ("Tanh", "ReLU", "GELU", "SiLU", "SELU", "Softplus")
INITIALIZERS = (
    *("auto", "torch_default", "xavier_normal", "he_normal", "lecun_uniform"),
    *("orthogonal", "zeros", "normal", "uniform"),
)
WIDTH, BATCH, RATE, MOMENTUM = 64, 128, 0.003, 0.9
THOUSAND = {"width": 32, "rate": 1e-4, "steps": 300}


class Deep(LightningModule):
    """Fully connected layers, each followed by the nonlinearity, and a head."""

    def __init__(self, nonlinearity: str, depth: int, width: int = WIDTH, rate: float = RATE) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Flatten()]
        for i in range(depth - 1):
            layers += [nn.Linear(width if i else 784, width), getattr(nn, nonlinearity)()]
        self.net, self.rate = nn.Sequential(*layers, nn.Linear(width, 10)), rate

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        del batch_idx
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), self.rate, momentum=MOMENTUM)


def accuracy(model: Deep, data: ImageData) -> float:
    images, labels = data.val.tensors
    with torch.inference_mode():
        return float((model.eval()(images).argmax(1) == labels).double().mean())


def trained(
    model: Deep, data: ImageData, init: InitCallback, logger: TensorBoardLogger | None = None, **how: int
) -> float:
    """Return the accuracy after training; that of a network that diverges is chance."""
    trainer = Trainer(
        accelerator="cpu",
        callbacks=[init],
        logger=logger or False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        **how,
    )
    trainer.fit(model, train_dataloaders=data.train_dataloader())
    return accuracy(model, data)


def thousand(data: ImageData) -> dict[str, float]:
    """Train 1,000 layers with the monitor on, and return what came of it."""
    model = Deep("Tanh", 1000, int(THOUSAND["width"]), THOUSAND["rate"])
    monitor = SignalMonitor(alerts=False)
    with tempfile.TemporaryDirectory() as folder:
        logger = TensorBoardLogger(folder)
        init = InitCallback("orthogonal", seed=0, monitor=monitor)
        reached = trained(model, data, init, logger, max_steps=int(THOUSAND["steps"]))
        history = monitor.history()
    layers = [tag for tag in history if tag.startswith("activation_variance/") and "net." in tag]
    steps = {len(history[tag]) for tag in layers}
    return {"accuracy": reached, "layers_followed": len(layers), "steps_followed": min(steps), **THOUSAND}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nonlinearities", nargs="*", default=NONLINEARITIES)
    parser.add_argument("--initializers", nargs="*", default=INITIALIZERS)
    parser.add_argument("--thousand", action="store_true")
    parser.add_argument("--epochs", type=int, default=2)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    data = torchvision_images(name="FashionMNIST", seed=0, batch_size=BATCH, validation=10000)
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    rows: dict[str, dict[str, float]] = found.get("accuracy_of_50_layers", {})
    results = {"environment": environment(), "accuracy_of_50_layers": rows, "1000_layers": found.get("1000_layers")}
    if options.thousand:
        results["1000_layers"] = thousand(data)
        print(results["1000_layers"], flush=True)
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    for nonlinearity in options.nonlinearities:
        for initializer in options.initializers:
            init = InitCallback(initializer, seed=0, monitor=False)
            reached = trained(Deep(nonlinearity, 50), data, init, max_epochs=options.epochs)
            rows.setdefault(nonlinearity, {})[initializer] = reached
            print(nonlinearity, initializer, reached, flush=True)
            RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
