"""Rules: which parameters of a model get which initializer."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase, translate
from functools import cached_property
from typing import TypeAlias

from torch import nn

from lightning_init._suggest import closest
from lightning_init.fans import Fans, Layout
from lightning_init.initializers.base import Initializer
from lightning_init.nonlinearities import Nonlinearity
from lightning_init.placement import Place

InitializerLike: TypeAlias = str | Initializer


@dataclass(frozen=True)
class Rule:
    """Says which initializer the parameters that it matches get; everything given must match.

    A pattern whose last component names the parameter (`*.bias`, `head.weight`) is taken by the letter. One that
    names only layers (`head.*`) speaks of their weights; with `None`, a constant or pretrained values it speaks of
    their biases too, but a wildcard never puts random values into biases, nor overwrites a normalization's ones and
    zeros. A rule that matches nothing else is always taken by the letter. The first rule that matches decides; where it
    covers a bias or a normalization without speaking of it, a later rule may still name that parameter.

    Args:
        pattern: glob over full parameter names; `*` also matches dots.
        initializer: a name, an instance, or None, which leaves the parameter as it is.
        module: class of the owning module, or its (qualified) name; subclasses match.
        where: `(name, module, parameter) -> bool`.
        nonlinearity: gain for this rule's initializer, as in `initialize`, whose own does not reach it; not `"auto"`.
        fans: for a parameter whose module is unknown: `Fans`, or a `Layout` for packed or transposed weights.
    """

    pattern: str = "*"
    initializer: InitializerLike | None = None
    module: type[nn.Module] | str | None = None
    where: Callable[[str, nn.Module, nn.Parameter], bool] | None = None
    nonlinearity: Nonlinearity | None = None
    fans: Fans | Layout | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.pattern, str):
            raise TypeError(f"pattern must be a glob over parameter names, got {self.pattern!r}")
        if not (self.module is None or isinstance(self.module, (str, type))):
            raise TypeError(f"module must be a module class or its name, got {self.module!r}")
        if not (self.where is None or callable(self.where)):
            raise TypeError(f"where must be a callable (name, module, parameter) -> bool, got {self.where!r}")
        if not (self.fans is None or isinstance(self.fans, (Fans, Layout))):
            raise TypeError(f"fans must be Fans or a Layout, got {self.fans!r}")
        if self.nonlinearity == "auto":
            raise ValueError(
                "nonlinearity='auto' is an argument of initialize and InitCallback and goes for what no rule claims; "
                f"give {self} the name of one nonlinearity, or none"
            )

    def matches(self, place: Place) -> bool:
        """Return whether every condition of the rule holds for `place`."""
        return (
            any(map(self._glob.match, place.names))
            and (self.module is None or _is_a(place.module, self.module))
            and (self.where is None or self._asked(self.where, place))
        )

    def _asked(self, where: Callable[[str, nn.Module, nn.Parameter], bool], place: Place) -> bool:
        try:
            return bool(where(place.name, place.module, place.parameter))
        except Exception as error:
            raise ValueError(f"where of {self} fails on {place.name}: {type(error).__name__}: {error}") from error

    @cached_property
    def _glob(self) -> re.Pattern[str]:
        return re.compile(translate(self.pattern))

    def names_parameter(self, place: Place) -> bool:
        """Return whether the rule speaks of this parameter by its own name, not only of its layer."""
        last = self.pattern.rpartition(".")[2]
        return self.where is not None or (last.strip("*?") != "" and fnmatchcase(place.leaf, last))

    def hint(self, found: Sequence[Place]) -> str:
        """Return what to write instead of a rule that matches nothing in `found`."""
        if self.module is not None and not any(_is_a(place.module, self.module) for place in found):
            wanted = self.module if isinstance(self.module, str) else self.module.__name__
            classes = ", ".join(closest(wanted, {place.owner for place in found}))
            return f"no parameter belongs to a {wanted}; the closest classes are: {classes or '(none)'}"
        if any(self._glob.match(name) for place in found for name in place.names):
            return "its pattern does, but not together with its other conditions"
        names = ", ".join(closest(self.pattern, [name for place in found for name in place.names]))
        escape = "; in a glob [...] is a set of characters: write [[] for a bracket" if "[" in self.pattern else ""
        return f"the closest names are: {names or '(the model has no parameters)'}{escape}"

    def __str__(self) -> str:
        parts = [repr(self.pattern)] if self.pattern != "*" else []
        if self.module is not None:
            parts.append(self.module if isinstance(self.module, str) else self.module.__name__)
        if self.where is not None:
            parts.append(getattr(self.where, "__name__", "where"))
        return f"rule {' and '.join(parts) or repr('*')}"


Rules: TypeAlias = Mapping[str, InitializerLike | None] | Sequence[Rule]


def normalize_rules(rules: Rules | None) -> tuple[Rule, ...]:
    """Return `rules` as a tuple of `Rule`s.

    >>> normalize_rules({"head.*": "zeros"})[0].initializer
    'zeros'
    """
    if rules is None:
        return ()
    if isinstance(rules, Mapping):
        rules = [Rule(pattern, value) for pattern, value in rules.items()]
    return tuple(rules)


def _is_a(module: nn.Module, wanted: type[nn.Module] | str) -> bool:
    if isinstance(wanted, str):
        return any(wanted in (base.__name__, f"{base.__module__}.{base.__qualname__}") for base in type(module).__mro__)
    return isinstance(module, wanted)
