r"""Mean field: weights and biases given by (sigma_w, sigma_b), and the pair that puts a network at the edge of chaos.

$W_{ij} \sim N(0, \sigma_w^2 / fan\_in)$, $b_i \sim N(0, \sigma_b^2)$: the ensemble of Poole et al. 2016 and Schoenholz
et al. 2017, whose variances, correlations and gradients `lightning_init.theory` predicts.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from typing_extensions import Self

from lightning_init.fans import Fans, Shape, layout
from lightning_init.initializers._checks import number
from lightning_init.initializers.base import Initializer
from lightning_init.initializers.constant import Zeros
from lightning_init.initializers.distributions import Normal, normal_
from lightning_init.initializers.forget_gate import ForgetGateBias
from lightning_init.initializers.torch_default import TorchDefault
from lightning_init.initializers.variance_scaling import fan_std
from lightning_init.nonlinearities import Nonlinearity, resolve
from lightning_init.theory import edge_of_chaos


@dataclass(frozen=True)
class _Ensemble(Initializer):
    """Brings biases too, so that `bias=` does not apply; `resolve` gives weights and biases their own laws."""

    needs_layout: ClassVar[bool] = True

    @property
    @abstractmethod
    def gain(self) -> float:
        """sigma_w."""

    @property
    @abstractmethod
    def bias_std(self) -> float:
        """sigma_b."""

    @abstractmethod
    def weights(self) -> Initializer:
        """Return the law of the weights."""

    def target_std(self, shape: Shape, fans: Fans | None) -> float:
        """Return `sigma_w / sqrt(fan_in)`."""
        del shape
        if fans is None:
            raise ValueError(f"{self} needs fan_in, and it is not known")
        return fan_std(self.gain, fans, "fan_in")

    def fill_(self, block: Tensor, fans: Fans | None, generator: torch.Generator | None) -> None:
        """Draw every entry."""
        normal_(block, 0.0, self.target_std(block.shape, fans), generator)

    def resolve(self, module: nn.Module, parameter_name: str, shape: Shape, names: Sequence[str]) -> Initializer | None:
        """Return the law of a weight, of a bias (an LSTM's forget gate opens without one), or a normalization's own."""
        if isinstance(module, (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)):
            return TorchDefault().resolve(module, parameter_name, shape, names)
        is_weight = layout(module, parameter_name, shape) is not None
        if not is_weight and (parameter_name.startswith("bias") or parameter_name.endswith("bias")):
            if self.bias_std == 0:
                opens = isinstance(module, (nn.LSTM, nn.LSTMCell)) and parameter_name.startswith("bias_ih")
                return ForgetGateBias() if opens else Zeros()
            return Normal(std=self.bias_std)
        return self.weights() if is_weight or len(shape) > 1 else None


@dataclass(frozen=True)
class MeanField(_Ensemble):
    """Draw weights from N(0, sigma_w^2 / fan_in) and biases from N(0, sigma_b^2).

    The nonlinearity is in sigma_w already: `with_nonlinearity` changes nothing.

    Poole, Lahiri, Raghu, Sohl-Dickstein & Ganguli 2016, Exponential expressivity in deep neural networks through
    transient chaos, section 2.

    Args:
        sigma_w: std of the weights times sqrt(fan_in).
        sigma_b: std of the biases.

    >>> MeanField(sigma_w=1.5, sigma_b=0.1).target_std((8, 25), Fans(25, 8))
    0.3
    >>> MeanField(sigma_w=1.5, sigma_b=0.1).resolve(nn.Linear(25, 8), "bias", (8,), ["bias"])
    Normal(mean=0.0, std=0.1)
    """

    complete: ClassVar[bool] = True

    sigma_w: float = 1.0
    sigma_b: float = 0.0

    def __post_init__(self) -> None:
        number(self, "sigma_w", minimum=0)
        number(self, "sigma_b", minimum=0)

    @property
    def gain(self) -> float:
        """sigma_w."""
        return self.sigma_w

    @property
    def bias_std(self) -> float:
        """sigma_b."""
        return self.sigma_b

    def weights(self) -> Initializer:
        """Return the law of the weights alone."""
        return MeanFieldWeights(self.sigma_w, self.sigma_b)


class MeanFieldWeights(MeanField):
    """What `MeanField` gives to weights."""

    complete: ClassVar[bool] = False


@dataclass(frozen=True)
class EdgeOfChaos(_Ensemble):
    r"""Draw weights from N(0, sigma_w^2 / fan_in), biases from N(0, sigma_b^2), with the critical sigma_w for sigma_b.

    Critical means that $\sigma_w^2 E[f'(\sqrt q z)^2] = 1$ at the variance q that the layers keep: gradients neither
    vanish nor explode, and inputs stay distinguishable in great depth. Where a nonlinearity has no edge at this
    sigma_b (gelu and silu without biases, softplus), the sentence of `lightning_init.theory.edge_of_chaos` says so.

    Schoenholz, Gilmer, Ganguli & Sohl-Dickstein 2017, Deep information propagation, section 3; Hayou, Doucet &
    Rousseau 2019, On the impact of the activation function on deep neural networks training, algorithm 1.

    Args:
        nonlinearity: name, module or callable.
        sigma_b: std of the biases.

    >>> round(EdgeOfChaos("tanh", sigma_b=0.2).gain, 4), round(EdgeOfChaos("relu").gain, 4)
    (1.3041, 1.4142)
    """

    complete: ClassVar[bool] = True

    nonlinearity: Nonlinearity = "relu"
    sigma_b: float = 0.0

    def __post_init__(self) -> None:
        number(self, "sigma_b", minimum=0)
        known = resolve(self.nonlinearity)
        if known.name is not None and known.label == known.name:
            object.__setattr__(self, "nonlinearity", known.name)
        _critical_sigma_w(self.nonlinearity, self.sigma_b)  # refuses now, not at the first weight

    @property
    def gain(self) -> float:
        """The critical sigma_w."""
        return _critical_sigma_w(self.nonlinearity, self.sigma_b)

    @property
    def bias_std(self) -> float:
        """sigma_b."""
        return self.sigma_b

    def weights(self) -> Initializer:
        """Return the law of the weights alone."""
        return EdgeOfChaosWeights(self.nonlinearity, self.sigma_b)

    def with_nonlinearity(self, nonlinearity: Nonlinearity) -> Self:
        """Return the same at the edge of chaos of `nonlinearity`."""
        return replace(self, nonlinearity=nonlinearity)


class EdgeOfChaosWeights(EdgeOfChaos):
    """What `EdgeOfChaos` gives to weights."""

    complete: ClassVar[bool] = False


@lru_cache(maxsize=256)
def _critical_sigma_w(nonlinearity: Nonlinearity, sigma_b: float) -> float:
    return edge_of_chaos(nonlinearity, sigma_b=sigma_b).sigma_w
