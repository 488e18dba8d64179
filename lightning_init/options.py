"""The options of `initialize` and `InitCallback`: what no model could make right is refused before there is a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

from lightning_init import initializers
from lightning_init.gains import gain
from lightning_init.nonlinearities import Nonlinearity
from lightning_init.rules import InitializerLike, Rule, Rules, normalize_rules

Frozen: TypeAlias = Literal["skip", "initialize"]
FansFrom: TypeAlias = Literal["module", "torch"]


def check_options(
    initializer: InitializerLike,
    *,
    rules: Rules | None,
    bias: InitializerLike | None,
    frozen: str,
    seed: int | None,
    fans: str,
    nonlinearity: Nonlinearity | None,
) -> None:
    """Raise TypeError or ValueError, naming the argument, for options that no model could make right."""
    initializers.get(initializer)
    if bias is not None:
        initializers.get(bias)
    if nonlinearity is not None and nonlinearity != "auto":
        gain(nonlinearity)
    if frozen not in ("skip", "initialize"):
        raise ValueError(f"frozen must be 'skip' or 'initialize', got {frozen!r}")
    if fans not in ("module", "torch"):
        raise ValueError(f"fans must be 'module' or 'torch', got {fans!r}")
    if seed is not None:
        _check_seed(seed)
    _check_rules(rules)


def _check_rules(rules: Rules | None) -> None:
    if isinstance(rules, str) or not isinstance(rules, (Mapping, Sequence, type(None))):
        raise TypeError(f"rules must be a mapping from globs to initializers or a sequence of Rule, got {rules!r}")
    for rule in normalize_rules(rules):
        if not isinstance(rule, Rule) or not isinstance(rule.pattern, str):
            raise TypeError(f"rules must hold Rule objects or map strings to initializers, got {rule!r}")
        if rule.initializer is not None:
            initializers.get(rule.initializer)
        if rule.nonlinearity is not None:
            gain(rule.nonlinearity)


def _check_seed(seed: int) -> None:
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"seed must be an int or None, got {seed!r}")
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed must be in [0, 2**64), got {seed}")
