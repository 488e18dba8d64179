"""The plan: rules resolved on a model, one assignment for every parameter, with the reason. Pure; writes nothing."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from lightning_init import fans as fans_module
from lightning_init import initializers
from lightning_init._names import clean
from lightning_init.assignment import Assignment, Reading, entries
from lightning_init.fans import Fans, Layout, torch_layout
from lightning_init.initializers.base import Initializer
from lightning_init.initializers.forget_gate import ForgetGateBias
from lightning_init.initializers.pretrained import Given
from lightning_init.nonlinearities import Nonlinearity
from lightning_init.options import FansFrom, Frozen, check_options
from lightning_init.parameter_roles import role_of
from lightning_init.placement import Place, places
from lightning_init.report import Report
from lightning_init.rules import InitializerLike, Rule, Rules, normalize_rules
from lightning_init.tracing import Follower, complaint, followers


@dataclass(frozen=True)
class Plan:
    """Assignments in registration order, and the seed that the values are drawn from."""

    assignments: tuple[Assignment, ...]
    seed: int

    def generator(self, assignment: Assignment, device: torch.device) -> torch.Generator:
        """Return the private generator of one parameter: keyed by seed and name, so it depends on nothing else."""
        shared = assignment.initializer.drawn_with if assignment.initializer is not None else None
        key = hashlib.blake2b(f"{self.seed}/{shared or assignment.name}".encode(), digest_size=8).digest()
        return torch.Generator(device).manual_seed(int.from_bytes(key, "little") >> 1)

    def report(self, readings: Sequence[Reading] | None = None) -> Report:
        """Return the report of this plan, with what was read back from each assignment; None before."""
        pairs = zip(self.assignments, readings or [Reading()] * len(self.assignments), strict=True)
        return Report(self.seed, tuple(entry for assignment, read in pairs for entry in entries(assignment, read)))

    def __str__(self) -> str:
        return str(self.report())

    @property
    def unclaimed(self) -> list[Assignment]:
        """Parameters that stay as they are because nothing knows them, not because somebody said so."""
        return [assignment for assignment in self.assignments if not assignment.claimed]


def make_plan(
    model: nn.Module,
    initializer: InitializerLike,
    *,
    rules: Rules | None = None,
    nonlinearity: Nonlinearity | None = None,
    bias: InitializerLike | None = "zeros",
    frozen: Frozen = "skip",
    seed: int | None = None,
    strict: bool = False,
    fans: FansFrom = "module",
) -> Plan:
    """Return what `initialize` would do with these arguments (documented there), without touching the model.

    Raises:
        TypeError, ValueError: an argument is off, a rule matches nothing, an initializer cannot apply to a parameter,
            or `strict` and a parameter is unclaimed. All parameters concerned are named.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    check_options(initializer, rules=rules, bias=bias, frozen=frozen, seed=seed, fans=fans, nonlinearity=nonlinearity)
    found = places(model)
    _refuse_lazy(found)
    planner = _Planner(
        default=initializers.get(initializer).on(model),
        rules=normalize_rules(rules),
        asked=nonlinearity,
        nonlinearity=_followers(model, nonlinearity),
        bias=None if bias is None else initializers.get(bias),
        frozen=frozen,
        fans=fans,
    )
    plan = Plan(tuple(planner.assign(found)), torch.initial_seed() if seed is None else seed)
    _refuse_impossible(plan)
    if strict and plan.unclaimed:
        listing = "".join(f"\n  {a.name} {tuple(a.place.shape)}: {a.why}" for a in plan.unclaimed)
        raise ValueError(f"strict=True, but these parameters would stay at their default:{listing}")
    return plan


@dataclass(frozen=True)
class _Planner:
    """Decides for each place; `nonlinearity` maps a module name to `(nonlinearity or None, reason)`, as was `asked`."""

    default: Initializer
    rules: tuple[Rule, ...]
    asked: Nonlinearity | None
    nonlinearity: Callable[[str], tuple[Nonlinearity | None, str]]
    bias: Initializer | None
    frozen: Frozen
    fans: FansFrom

    def assign(self, found: Sequence[Place]) -> Iterable[Assignment]:
        claims = self._claims(found)
        for place in found:
            # The first decides; where it speaks of the layer only, a later one may still name the parameter itself.
            deciding = (
                rule
                for i, (rule, speaks_of_it) in enumerate(claims.get(place.name, ()))
                if speaks_of_it and (i == 0 or rule.names_parameter(place))
            )
            rule = next(deciding, None)
            if not (place.parameter.is_floating_point() or place.parameter.is_complex()):
                yield Assignment(place, None, None, f"kept: {place.parameter.dtype} is not a floating-point type")
            elif place.frozen and self.frozen == "skip":
                yield Assignment(place, None, None, "kept: frozen (requires_grad=False)")
            elif place.tied_to:
                yield Assignment(
                    place, None, None, f"kept: {place.name} shares {place.tied_to}, and the first name wins"
                )
            elif rule is not None:
                yield self._by_rule(place, rule)
            else:
                yield self._by_default(place)

    def _claims(self, found: Sequence[Place]) -> dict[str, list[tuple[Rule, bool]]]:
        """Return parameter name -> the rules that match it, in order, and whether each speaks of it."""
        claims: dict[str, list[tuple[Rule, bool]]] = {}
        for rule in self.rules:
            matched = [place for place in found if rule.matches(place)]
            if not matched:
                raise ValueError(f"{rule} matches no parameter; {rule.hint(found)}")
            addressed = [self._addresses(rule, place) for place in matched]
            for place, speaks_of_it in zip(matched, addressed, strict=True):
                claims.setdefault(place.name, []).append((rule, speaks_of_it or not any(addressed)))
        return claims

    def _addresses(self, rule: Rule, place: Place) -> bool:
        """Return whether `rule`, which matches `place`, speaks of it (see `Rule`)."""
        if rule.initializer is None or rule.names_parameter(place):
            return True
        role, initializer = role_of(place), initializers.get(rule.initializer)
        return role == "weight" or initializer.complete or (initializer.constant and role in ("bias", "unknown"))

    def _by_rule(self, place: Place, rule: Rule) -> Assignment:
        if rule.initializer is None:
            return Assignment(place, None, None, f"kept: {rule}")
        initializer = initializers.get(rule.initializer)
        layout = rule.fans or self._layout(place)
        if isinstance(layout, Fans):
            layout = Layout((fans_module.Block(place.shape[0], layout),))
        if rule.nonlinearity is not None:
            initializer = initializer.with_nonlinearity(rule.nonlinearity)
        resolved = initializer.resolve(place.module, place.leaf, place.shape, place.names)
        if resolved is None:
            reason = initializer.missing(place.name)
            raise ValueError(f"{rule}, {place.name}: {reason}. Keep it with None in an earlier rule")
        unheard = self.asked is not None and rule.nonlinearity is None and resolved.gain is not None
        why = f"{rule}; nonlinearity={self.asked!r} is for what no rule claims" if unheard else str(rule)
        return Assignment(place, resolved, None if resolved.complete else layout, why, ruled=True)

    def _by_default(self, place: Place) -> Assignment:
        role, owner = role_of(place), place.owner
        if self.default.claims(place.names):
            pretrained = isinstance(self.default, initializers.Pretrained)
            what, known = ("pretrained", None) if pretrained else (f"{owner}.{place.leaf}", self._layout(place))
            return self._resolved(self.default, place, known, what)
        if role == "normalization":
            return Assignment(place, None, None, "kept: a normalization keeps its ones and zeros")
        if role == "other":
            return Assignment(place, None, None, f"kept: {owner}.{place.leaf} is neither a weight nor a bias")
        if role == "unknown":
            hint = f"{owner} is unknown; name it in rules or teach lightning_init.fans.register({owner})"
            return Assignment(place, None, None, f"kept: {hint}", claimed=False)
        if role == "weight":
            return self._weight(place)
        if self.default.complete:
            return self._resolved(self.default, place, None, f"{owner} bias")
        if self.bias is None:
            return Assignment(place, None, None, "kept: bias=None")
        found = self._resolved(self.bias, place, None, f"{owner} bias")
        return _open_forget_gate(found) if isinstance(found.initializer, initializers.Zeros) else found

    def _weight(self, place: Place) -> Assignment:
        found = self._resolved(self.default, place, self._layout(place), f"{place.owner} weight")
        if found.initializer is None or found.initializer.gain is None:
            return found
        nonlinearity, reason = self.nonlinearity(place.module_name)
        initializer = found.initializer
        if nonlinearity is not None:
            initializer = initializer.with_nonlinearity(nonlinearity)
        return replace(found, initializer=initializer, why=found.why + reason)

    @staticmethod
    def _resolved(initializer: Initializer, place: Place, layout: Layout | None, why: str) -> Assignment:
        resolved = initializer.resolve(place.module, place.leaf, place.shape, place.names)
        if resolved is None:
            return Assignment(place, None, None, f"kept: {initializer.missing(place.name)}", claimed=False)
        why += initializer.reason(place.module, place.leaf, place.shape, place.names)
        return Assignment(place, resolved, None if resolved.complete else layout, why)

    def _layout(self, place: Place) -> Layout | None:
        layout = fans_module.layout(place.module, place.leaf, place.shape)
        if layout is None:
            return None
        rows = (module.padding_idx for module in place.users if isinstance(module, (nn.Embedding, nn.EmbeddingBag)))
        padding_row = next((row for row in (layout.padding_row, *rows) if row is not None), None)
        return replace(torch_layout(place.shape) if self.fans == "torch" else layout, padding_row=padding_row)


def _open_forget_gate(zeros: Assignment) -> Assignment:
    """Return the zero bias of an LSTM with its forget gate open (Jozefowicz et al. 2015, section 2.2)."""
    if not isinstance(zeros.place.module, (nn.LSTM, nn.LSTMCell)):
        return zeros
    if zeros.place.leaf.startswith("bias_ih"):
        return replace(zeros, initializer=ForgetGateBias(), why="LSTM bias: forget gate 1, else 0")
    return replace(zeros, why="LSTM bias: the forget gate's 1 is in bias_ih")


def _followers(model: nn.Module, nonlinearity: Nonlinearity | None) -> Callable[[str], tuple[Nonlinearity | None, str]]:
    """Return module name -> the nonlinearity whose gain its weights get, and how that is known."""
    if nonlinearity == "auto":
        found = {clean(name, model): follower for name, follower in followers(model).items()}
        doubts = complaint(found)
        if doubts is not None:
            warnings.warn(doubts, stacklevel=4)
        return lambda name: _found(found.get(name))
    reason = "" if nonlinearity is None else f", before {getattr(nonlinearity, '__name__', nonlinearity)}"
    return lambda _: (nonlinearity, reason)


def _found(follower: Follower | None) -> tuple[Nonlinearity | None, str]:
    """Return the nonlinearity behind one layer: `linear` if surely none follows, None if that is not known."""
    if follower is None:
        return None, ", not found by nonlinearity='auto': the initializer's own gain"
    if follower.nonlinearity is None and follower.certain:
        return "linear", f", {follower.reason}"
    return follower.nonlinearity, f", {follower.reason}"


def _refuse_lazy(found: Sequence[Place]) -> None:
    lazy = [place.name for place in found if any(is_lazy(parameter) for parameter in place.stored.values())]
    if lazy:
        raise ValueError(
            f"{', '.join(lazy)}: lazy parameters have no shape yet; run one batch through the model "
            "(in `setup` or `configure_model` under Lightning) before it is initialized"
        )


def _refuse_impossible(plan: Plan) -> None:
    problems = []
    for assignment in plan.assignments:
        if assignment.initializer is None:
            continue
        try:
            assignment.initializer.check(assignment.place.shape, assignment.layout)
            if isinstance(assignment.initializer, Given):
                assignment.initializer.check_dtype(assignment.place.parameter.dtype)
            _ = assignment.target_std
        except (ValueError, TypeError, ArithmeticError) as error:
            place = assignment.place
            problems.append(f"  {place.name} {tuple(place.shape)} of {place.owner} ({assignment.why}): {error}")
    if problems:
        more = f"\n  ... and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise ValueError(
            "these initializers cannot apply; give the parameters another one, or None, with rules:\n"
            + "\n".join(problems[:5])
            + more
        )
