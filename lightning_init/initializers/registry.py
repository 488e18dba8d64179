"""Names: the initializers by name, for configuration files and command lines."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TypeAlias, cast

from lightning_init._suggest import closest
from lightning_init.initializers.base import Initializer
from lightning_init.initializers.constant import Constant, Ones, Zeros
from lightning_init.initializers.distributions import Normal, TruncatedNormal, TruncNormal, Uniform
from lightning_init.initializers.hadamard import HadamardIdentity
from lightning_init.initializers.identity import Dirac, Eye
from lightning_init.initializers.mean_field import EdgeOfChaos, MeanField
from lightning_init.initializers.orthogonal import DeltaOrthogonal, Orthogonal
from lightning_init.initializers.rule_of_thumb import NormalRule, UniformRule
from lightning_init.initializers.siren import Siren
from lightning_init.initializers.sparse import Sparse
from lightning_init.initializers.torch_default import TorchDefault
from lightning_init.initializers.variance_scaling import (
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

_Factory: TypeAlias = Callable[..., Initializer]
_BY_NAME: dict[str, _Factory] = {
    "constant": Constant,
    "delta_orthogonal": DeltaOrthogonal,
    "dirac": Dirac,
    "edge_of_chaos": EdgeOfChaos,
    "eye": Eye,
    "glorot_normal": XavierNormal,
    "glorot_truncated_normal": XavierTruncatedNormal,
    "glorot_uniform": XavierUniform,
    "hadamard_identity": HadamardIdentity,
    "he_normal": KaimingNormal,
    "he_truncated_normal": KaimingTruncatedNormal,
    "he_uniform": KaimingUniform,
    "identity": Eye,
    "jax_normal": partial(Normal, std=0.01),
    "jax_truncated_normal": partial(TruncNormal, std=0.01, a=-0.02, b=0.02),
    "jax_uniform": partial(Uniform, high=0.01),
    "kaiming_normal": KaimingNormal,
    "kaiming_truncated_normal": KaimingTruncatedNormal,
    "kaiming_uniform": KaimingUniform,
    "keras_truncated_normal": partial(TruncNormal, std=0.05, a=-0.1, b=0.1),
    "large_random": partial(Normal, std=1.0),
    "lecun_normal": LecunNormal,
    "lecun_truncated_normal": LecunTruncatedNormal,
    "lecun_uniform": LecunUniform,
    "mean_field": MeanField,
    "normal": Normal,
    "normal_rule": NormalRule,
    "ones": Ones,
    "orthogonal": Orthogonal,
    "random_normal": partial(Normal, std=0.05),
    "random_uniform": partial(Uniform, low=-0.05, high=0.05),
    "siren": Siren,
    "small_random": partial(Normal, std=0.01),
    "sparse": Sparse,
    "torch_default": TorchDefault,
    "trunc_normal": TruncNormal,
    "truncated_normal": TruncatedNormal,
    "uniform": Uniform,
    "uniform_rule": UniformRule,
    "variance_scaling": VarianceScaling,
    "xavier_normal": XavierNormal,
    "xavier_truncated_normal": XavierTruncatedNormal,
    "xavier_uniform": XavierUniform,
    "zeros": Zeros,
}


def register(name: str, factory: Callable[..., Initializer]) -> None:
    """Let `get` know `factory` by `name`; for initializers that stand on more than this folder knows of."""
    _BY_NAME[name] = factory


def names() -> list[str]:
    """Return every name that `get` accepts, aliases included, in alphabetical order.

    >>> [name for name in names() if name.startswith("he_")]
    ['he_normal', 'he_truncated_normal', 'he_uniform']
    """
    return sorted(_BY_NAME)


def get(initializer: str | Initializer, /, **settings: object) -> Initializer:
    """Return the initializer of that name with these settings; an initializer is returned as it is.

    Raises:
        ValueError: if there is no such name (the closest ones are named), or a setting is out of its range.
        TypeError: if `initializer` is neither, or has no such setting (the valid ones are named).

    >>> get("glorot_uniform"), get("normal", std=0.02)
    (XavierUniform(gain=1.0), Normal(mean=0.0, std=0.02))
    """
    if isinstance(initializer, Initializer):
        if settings:
            raise TypeError(f"settings {_listing(settings)} go with a name, but initializer is {initializer!r} already")
        return initializer
    if not isinstance(initializer, str):
        raise TypeError(f"initializer must be a name or an Initializer (an instance), got {initializer!r}")
    factory = _BY_NAME.get(initializer)
    if factory is None:
        nearest = ", ".join(closest(initializer, _BY_NAME))
        raise ValueError(
            f"initializer must be one of the names in lightning_init.initializers.names(), got {initializer!r}; "
            f"the closest are: {nearest}"
        )
    valid = [field.name for field in dataclasses.fields(_class(factory)) if field.init]
    unknown = [name for name in settings if name not in valid]
    if unknown:
        raise TypeError(f"{initializer} has no setting {_listing(unknown)}; it takes {_listing(valid) or 'none'}")
    return factory(**settings)


def from_config(config: Mapping[str, object]) -> Initializer:
    """Return the initializer that `Initializer.to_config` described.

    >>> from_config({"name": "uniform", "low": -1.0})
    Uniform(low=-1.0, high=1.0)
    """
    if not isinstance(config, Mapping) or not isinstance(config.get("name"), str):
        raise TypeError(f"config must be a mapping with a 'name', as to_config() returns it, got {config!r}")
    settings = {str(key): value for key, value in config.items() if key != "name"}
    return get(str(config["name"]), **settings)


def _class(factory: Callable[..., Initializer]) -> type[Initializer]:
    while isinstance(factory, partial):
        factory = factory.func
    return cast("type[Initializer]", factory)


def _listing(items: Iterable[str]) -> str:
    return ", ".join(items)
