"""Initializers: callables that fill one tensor; each is a frozen dataclass of its settings.

`get` and `names` know them by name. he = kaiming, glorot = xavier.
"""

from lightning_init.initializers.base import Initializer
from lightning_init.initializers.constant import Constant, Ones, Zeros
from lightning_init.initializers.distributions import Normal, TruncatedNormal, TruncNormal, Uniform
from lightning_init.initializers.forget_gate import ForgetGateBias
from lightning_init.initializers.hadamard import HadamardIdentity, ZerO
from lightning_init.initializers.identity import Dirac, Eye, Identity
from lightning_init.initializers.looks_linear import LooksLinear
from lightning_init.initializers.mean_field import EdgeOfChaos, MeanField
from lightning_init.initializers.orthogonal import DeltaOrthogonal, Orthogonal
from lightning_init.initializers.pretrained import Pretrained
from lightning_init.initializers.registry import from_config, get, names, register
from lightning_init.initializers.rule_of_thumb import NormalRule, UniformRule
from lightning_init.initializers.siren import Siren
from lightning_init.initializers.sparse import Sparse
from lightning_init.initializers.torch_default import TorchDefault
from lightning_init.initializers.variance_scaling import (
    GlorotNormal,
    GlorotTruncatedNormal,
    GlorotUniform,
    HeNormal,
    HeTruncatedNormal,
    HeUniform,
    KaimingNormal,
    KaimingTruncatedNormal,
    KaimingUniform,
    LecunNormal,
    LecunTruncatedNormal,
    LecunUniform,
    VarianceScaling,
    XavierNormal,
    XavierTruncatedNormal,
    XavierUniform,
)

__all__ = [
    "Constant",
    "DeltaOrthogonal",
    "Dirac",
    "EdgeOfChaos",
    "Eye",
    "ForgetGateBias",
    "GlorotNormal",
    "GlorotTruncatedNormal",
    "GlorotUniform",
    "HadamardIdentity",
    "HeNormal",
    "HeTruncatedNormal",
    "HeUniform",
    "Identity",
    "Initializer",
    "KaimingNormal",
    "KaimingTruncatedNormal",
    "KaimingUniform",
    "LecunNormal",
    "LecunTruncatedNormal",
    "LecunUniform",
    "LooksLinear",
    "MeanField",
    "Normal",
    "NormalRule",
    "Ones",
    "Orthogonal",
    "Pretrained",
    "Siren",
    "Sparse",
    "TorchDefault",
    "TruncNormal",
    "TruncatedNormal",
    "Uniform",
    "UniformRule",
    "VarianceScaling",
    "XavierNormal",
    "XavierTruncatedNormal",
    "XavierUniform",
    "ZerO",
    "Zeros",
    "from_config",
    "get",
    "names",
    "register",
]
