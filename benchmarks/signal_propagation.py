"""How far signals drift from the first to the last layer at initialization, forward and backward, in decades.

    python -m benchmarks.signal_propagation [--quick] [--models 'mlp-*-200' resnet50 ...]

Writes benchmarks/results/signal_propagation.json: per model and initializer log10(last / first) of the activations'
variance over the layers with weights, and log10(first / last) of the gradient's energy (its squared norm at a layer's
outputs, which widths and strides do not change by themselves); for models that end in an average also how many values
it takes and how much they are alike under `auto`. Models run in training mode, on noise of mean square 1
(images: uniform pixels). Rows that are in the file already, and were not asked for, stay.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import warnings
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torchvision import models as vision

from benchmarks.environment import environment
from lightning_init import calibrate, diagnose, initialize
from lightning_init.auto import Auto

RESULTS = Path(__file__).parent / "results" / "signal_propagation.json"
NONLINEARITIES = (
    *("ReLU", "LeakyReLU", "ELU", "SELU", "GELU", "SiLU"),
    *("Mish", "Softplus", "Tanh", "Sigmoid", "Softsign", "Hardtanh"),
)
NAMED = ("torch_default", "xavier_normal", "he_normal", "orthogonal")
INITIALIZERS: dict[str, Callable[[nn.Module, Tensor], object]] = {
    **{name: lambda model, _, name=name: initialize(model, name, seed=0) for name in NAMED},
    "lsuv": lambda model, x: calibrate(model, "lsuv", [x], seed=0),
    "auto, without data": lambda model, _: initialize(model, "auto", seed=0),
    "auto": lambda model, x: initialize(model, Auto(batch=x), seed=0),
}


def mlp(nonlinearity: str, depth: int, width: int = 256) -> nn.Module:
    layers: list[nn.Module] = []
    for i in range(depth):
        last = i == depth - 1
        layers += [nn.Linear(width if i else 64, 10 if last else width)]
        layers += [] if last else [getattr(nn, nonlinearity)()]
    return nn.Sequential(*layers)


def plain_cnn(nonlinearity: str, depth: int, width: int = 32) -> nn.Module:
    layers: list[nn.Module] = []
    for i in range(depth):
        layers += [nn.Conv2d(width if i else 3, width, 3, padding=1), getattr(nn, nonlinearity)()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


def encoder(*, norm_first: bool) -> nn.Module:
    layer = nn.TransformerEncoderLayer(128, 4, 512, batch_first=True, norm_first=norm_first)
    return nn.TransformerEncoder(layer, 12, enable_nested_tensor=False)


def without_normalization(model: nn.Module) -> nn.Module:
    for name, child in model.named_children():
        if isinstance(child, _NormBase):
            setattr(model, name, nn.Identity())
        else:
            without_normalization(child)
    return model


def without_dropout(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def cases() -> Iterator[tuple[str, Callable[[], nn.Module], Callable[[], Tensor]]]:
    """Yield the name, the model and its input of every row."""
    for name in NONLINEARITIES:
        for depth in (10, 50, 200):
            yield f"mlp-{name}-{depth}", partial(mlp, name, depth), partial(torch.randn, 128, 64)
    for name in ("ReLU", "Tanh"):
        yield f"cnn-{name}-50", partial(plain_cnn, name, 50), partial(torch.randn, 8, 3, 16, 16)
    yield "transformer-pre-norm-12", lambda: encoder(norm_first=True), lambda: torch.randn(4, 32, 128)
    yield "transformer-post-norm-12", lambda: encoder(norm_first=False), lambda: torch.randn(4, 32, 128)
    images = partial(torch.rand, 4, 3, 224, 224)
    yield "mobilenet_v2", lambda: without_normalization(vision.mobilenet_v2()), images
    yield "resnet50", lambda: without_normalization(vision.resnet50()), images
    yield "alexnet", vision.alexnet, images
    yield "vgg16", vision.vgg16, images
    yield "vgg16-without-dropout", lambda: without_dropout(vision.vgg16()), images


def decades(model: nn.Module, x: Tensor) -> tuple[float, float]:
    """Return the drift forward and backward; infinite where a signal is lost."""
    spine = diagnose(model, x).profile.spine
    variances = [layer.activation_variance for layer in spine if layer.activation_variance is not None]
    energies = [layer.gradient_energy for layer in spine if layer.gradient_energy is not None]
    return _decades(variances[-1], variances[0]), _decades(energies[0], energies[-1])


def _decades(last: float, first: float) -> float:
    if not (math.isfinite(last) and math.isfinite(first)):
        return math.inf
    return math.log10(last / first) if last > 0 and first > 0 else -math.inf


def row(make: Callable[[], nn.Module], draw: Callable[[], Tensor]) -> dict[str, object]:
    """Return initializer -> [forward, backward], or why there is none; and what averages do under the last of them."""
    results: dict[str, object] = {}
    for name, initializer in INITIALIZERS.items():
        torch.manual_seed(0)
        model, x = make(), draw()
        try:
            initializer(model, x)
            results[name] = [round(value, 3) for value in decades(model, x)]
        except ValueError as error:
            results[name] = str(error)[:200]
    averages = averaged(model, x)
    if averages:
        results["averages"] = averages
    return results


def averaged(model: nn.Module, x: Tensor) -> list[list[float]]:
    """Return for each average pooling how many values it takes and the correlation c of two of them.

    The mean square of their mean is c + (1 - c) / n times theirs.
    """
    found: list[list[float]] = []

    def note(_: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        n = inputs[0][0, 0].numel() // output[0, 0].numel()
        if n > 1:
            share = float(output.square().mean() / inputs[0].square().mean())
            found.append([n, round((share - 1 / n) / (1 - 1 / n), 3)])

    for module in model.modules():
        if isinstance(module, nn.AdaptiveAvgPool2d):
            module.register_forward_hook(note)
    with torch.no_grad():
        model(x)
    return found


def main(arguments: list[str], results: Path = RESULTS) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two small models only")
    parser.add_argument("--models", nargs="*", default=["*"], help="globs over the names of the rows")
    options = parser.parse_args(arguments)
    wanted = ["mlp-GELU-10", "mlp-Tanh-10"] if options.quick else options.models
    rows: dict[str, object] = json.loads(results.read_text())["rows"] if results.is_file() else {}
    results.parent.mkdir(parents=True, exist_ok=True)
    for name, make, draw in cases():
        if any(fnmatchcase(name, glob) for glob in wanted):
            rows[name] = row(make, draw)
            print(name, json.dumps(rows[name]), flush=True)
            results.write_text(json.dumps({"environment": environment(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(sys.argv[1:])
