"""Stacked denoising autoencoders: each layer learns to restore its input from a corrupted copy of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_init.calibration.greedy import Greedy, Learned, error, is_probability, minibatches
from lightning_init.initializers._checks import number
from lightning_init.nonlinearities import Nonlinearity, resolve


@dataclass(frozen=True)
class DenoisingAutoencoders(Greedy):
    r"""Pretrain hidden layers as denoising autoencoders with tied weights, one after the other.

    A layer encodes $h = f(W \tilde x + b)$, with the nonlinearity f that follows it in the model, and decodes
    $z = g(W^T h + c)$. Inputs in [0, 1] are decoded by a sigmoid and cost cross-entropy, others linearly and cost
    squares; $\tilde x$ is x with a share `corruption` of its entries set to zero (none: Bengio et al. 2007).

    Vincent, Larochelle, Lajoie, Bengio & Manzagol 2010, Stacked denoising autoencoders, sections 3.1 and 3.2; trained
    by Adam instead of SGD, so that one learning rate suits every nonlinearity and width.

    Args:
        corruption: share of the entries that are masked.

    >>> from torch import nn
    >>> torch.manual_seed(0)  # doctest: +ELLIPSIS
    <torch...>
    >>> model = nn.Sequential(nn.Linear(16, 12), nn.Sigmoid(), nn.Linear(12, 2))
    >>> data = [torch.rand(32, 2) @ torch.rand(2, 16, generator=torch.Generator().manual_seed(1)) / 2] * 4
    >>> done = DenoisingAutoencoders(epochs=50, learning_rate=1e-2).calibrate_(model, data)
    >>> [one.why.split(" -> ")[-1] for one in done.layers][1:]
    ['kept: the output layer, which learns from labels alone']
    """

    corruption: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        number(self, "corruption", minimum=0, below=1)

    def learn(
        self, layer: str, weight: Tensor, bias: Tensor, inputs: Sequence[Tensor], nonlinearity: Nonlinearity
    ) -> Learned:
        """Return the encoder's weight and bias."""
        del layer
        (_, encode), *_ = resolve(nonlinearity).branches
        probable = is_probability(inputs)
        tied, hidden, visible = (
            one.clone().requires_grad_() for one in (weight, bias, weight.new_zeros(weight.shape[1]))
        )
        optimizer = torch.optim.Adam([tied, hidden, visible], self.learning_rate)

        def decoded(values: Tensor) -> Tensor:
            return F.linear(encode(F.linear(values, tied, hidden)), tied.T, visible)

        def reconstruct(values: Tensor) -> Tensor:
            return torch.sigmoid(decoded(values)) if probable else decoded(values)

        before = error(reconstruct, inputs)
        with torch.enable_grad():
            for batch in minibatches(inputs, self.epochs):
                logits = decoded(batch * (torch.rand_like(batch) >= self.corruption))
                loss = F.binary_cross_entropy_with_logits if probable else F.mse_loss
                optimizer.zero_grad()
                torch.autograd.backward(loss(logits, batch))
                optimizer.step()
        return Learned(tied.detach(), hidden.detach(), before, error(reconstruct, inputs))
