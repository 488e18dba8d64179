"""Restricted Boltzmann machines: each layer learns a model of its input by contrastive divergence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_init.calibration.greedy import Greedy, Learned, error, is_probability, minibatches
from lightning_init.nonlinearities import Nonlinearity, recognise
from lightning_init.rules import InitializerLike

_DECAY = 2e-4
_MOMENTUM, _FINAL_MOMENTUM, _EARLY = 0.5, 0.9, 5  # the first for the first epochs


@dataclass(frozen=True)
class Rbm(Greedy):
    r"""Pretrain hidden sigmoid layers as restricted Boltzmann machines, one after the other.

    One step of contrastive divergence (CD-1): $\Delta W = \epsilon (\langle h v^T \rangle_{data} - \langle h v^T
    \rangle_{reconstruction})$, hidden units sampled once, momentum 0.5 and 0.9 from the sixth epoch, weight decay 2e-4.
    Inputs in [0, 1] are probabilities of binary units; others are Gaussian units, for which the inputs are
    standardized and the standardization is put into the weights that come out.

    Hinton & Salakhutdinov 2006, Reducing the dimensionality of data with neural networks, with its supporting text;
    Hinton 2010, A practical guide to training restricted Boltzmann machines, sections 3, 9 and 13.2.

    Args:
        learning_rate: of binary units; Gaussian units take a hundredth of it.

    >>> from torch import nn
    >>> Rbm().calibrate_(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1)), [torch.rand(8, 4)])
    Traceback (most recent call last):
    ...
    ValueError: layer 0: an RBM has sigmoid units, and relu follows this layer; use DenoisingAutoencoders
    """

    learning_rate: float = 0.1
    initializer: InitializerLike = "small_random"

    def learn(
        self, layer: str, weight: Tensor, bias: Tensor, inputs: Sequence[Tensor], nonlinearity: Nonlinearity
    ) -> Learned:
        """Return the weight and the hidden bias, for the inputs as they are."""
        if recognise(nonlinearity) != "sigmoid":
            raise ValueError(
                f"layer {layer}: an RBM has sigmoid units, and {recognise(nonlinearity) or nonlinearity} follows this "
                "layer; use DenoisingAutoencoders"
            )
        if is_probability(inputs):
            return self._trained(weight, bias, inputs, self.learning_rate, binary=True)
        some = torch.cat(list(inputs[:10]))
        mean, std = some.mean(), some.std(correction=0).clamp_min(1e-6)
        standard = [(part - mean) / std for part in inputs]
        learned = self._trained(weight * std, bias, standard, self.learning_rate / 100, binary=False)
        shift = learned.weight.sum(1) * mean / std
        return learned._replace(weight=learned.weight / std, bias=learned.bias - shift)

    def _trained(
        self, weight: Tensor, hidden: Tensor, inputs: Sequence[Tensor], rate: float, *, binary: bool
    ) -> Learned:
        parts = [weight.clone(), hidden.clone(), weight.new_zeros(weight.shape[1])]
        velocities = [torch.zeros_like(part) for part in parts]

        def up(values: Tensor) -> Tensor:
            return torch.sigmoid(F.linear(values, parts[0], parts[1]))

        def down(units: Tensor) -> Tensor:
            values = F.linear(units, parts[0].T, parts[2])
            return torch.sigmoid(values) if binary else values

        before = error(lambda values: down(up(values)), inputs)
        for step, batch in enumerate(minibatches(inputs, self.epochs)):
            momentum = _MOMENTUM if step < _EARLY * len(inputs) else _FINAL_MOMENTUM
            units = up(batch)
            if not bool(units.isfinite().all()):
                return Learned(torch.full_like(parts[0], math.nan), parts[1], before, math.nan)  # it has diverged
            imagined = down(torch.bernoulli(units))
            after = up(imagined)
            slopes = [
                (units.T @ batch - after.T @ imagined) / len(batch) - _DECAY * parts[0],
                (units - after).mean(0),
                (batch - imagined).mean(0),
            ]
            for part, velocity, slope in zip(parts, velocities, slopes, strict=True):
                part.add_(velocity.mul_(momentum).add_(slope, alpha=rate))
        return Learned(parts[0], parts[1], before, error(lambda values: down(up(values)), inputs))
