"""Nonlinearities: names of torch.nn.functional, modules and callables, all turned into functions of one number.

`resolve` recognises what it is given; `Elementwise` is what comes out: the function to integrate, and a memo that
lives as long as the nonlinearity does. Random ones are mixtures: leaky ReLUs with a random slope (rrelu, and prelu
over its channels) and dropout are a few deterministic branches, each with its probability.
"""

from __future__ import annotations

import copy
import functools
import math
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_init._suggest import closest

Nonlinearity: TypeAlias = str | nn.Module | Callable[[Tensor], Tensor]
Setting: TypeAlias = float | str
Branches: TypeAlias = tuple[tuple[float, Callable[[Tensor], Tensor]], ...]
"""Probability and function; the probabilities sum to 1."""
Memo: TypeAlias = dict[object, object]


@dataclass(frozen=True, eq=False)
class Elementwise:
    """A function of one number, or a mixture of several.

    Args:
        label: how errors and reports call it, such as `leaky_relu(negative_slope=0.2)`.
        name: its name in torch.nn.functional (`linear` for the identity); None for anything else.
        settings: its parameters, such as `{"negative_slope": 0.2}`.
        branches: the functions and their probabilities.
        shared: two inputs meet the same branch (the channels of a prelu); otherwise each draws its own.
        memo: what was computed about it, kept as long as the nonlinearity lives.
    """

    label: str
    name: str | None
    settings: Mapping[str, Setting]
    branches: Branches
    shared: bool = False
    memo: Memo = field(default_factory=dict, repr=False)


def resolve(nonlinearity: Nonlinearity, *, negative_slope: float | None = None) -> Elementwise:
    """Return the function that `nonlinearity` stands for.

    Args:
        nonlinearity: a name as in torch.nn.functional, a module (its settings count), or an elementwise callable.
        negative_slope: of `leaky_relu` and `prelu`, when they are given by name.

    Raises:
        ValueError: unknown name, a slope for what has none, a name whose settings have no default.
        NotImplementedError: a nonlinearity that mixes entries (softmax, glu, ...), so that no gain is defined.
        TypeError: neither a name nor a callable.

    >>> resolve("swish").label, resolve(nn.LeakyReLU(0.2)).label, resolve(torch.tanh).label
    ('silu', 'leaky_relu(negative_slope=0.2)', 'tanh')
    """
    name, settings = _recognise(nonlinearity)
    if negative_slope is not None:
        settings = _with_slope(name, nonlinearity, negative_slope)
    if name is not None:
        return _named(name, tuple(sorted(settings.items())))
    if isinstance(nonlinearity, nn.Module):
        return _custom_module(nonlinearity)
    if isinstance(nonlinearity, str) or not callable(nonlinearity):
        raise TypeError(f"nonlinearity must be a name, a module or a callable, got {nonlinearity!r}")
    label = getattr(nonlinearity, "__qualname__", repr(nonlinearity)).removeprefix("_VariableFunctionsClass.")
    return Elementwise(label, None, {}, _certain(nonlinearity), memo=_memo_of(nonlinearity))


def names() -> list[str]:
    """Return every accepted name, aliases included.

    >>> len(names()), "gelu" in names(), "conv2d" in names()
    (37, True, True)
    """
    return sorted({*_TABLE, *_ALIASES})


def settings_of(name: str) -> Mapping[str, Setting] | None:
    """Return the settings of a nonlinearity of torch.nn.functional and their defaults; None if there is no such name.

    Dropout and the identity, which a signal passes, do not count.

    >>> settings_of("softplus"), settings_of("conv2d")
    ({'beta': 1.0, 'threshold': 20.0}, None)
    """
    return _TABLE[name].settings if name in _TABLE and name not in ("dropout", "linear") else None


def module_of(name: str, settings: Mapping[str, object]) -> nn.Module:
    """Return torch's module for a nonlinearity with settings.

    >>> module_of("leaky_relu", {"negative_slope": 0.2})
    LeakyReLU(negative_slope=0.2)
    """
    return _TABLE[name].modules[0](**settings)


def mixes(name: str) -> bool:
    """Return whether `name` combines several entries of its input, as softmax and glu do."""
    return name in _MIXING


def recognise(nonlinearity: Nonlinearity) -> Nonlinearity | None:
    """Return a module or function of torch by its name if its settings are the defaults, itself if they are not.

    None if it is none of torch's.

    Raises:
        NotImplementedError: softmax, glu and others that mix entries.

    >>> recognise(nn.ReLU(inplace=True)), recognise(nn.ELU(2.0)), recognise(torch.tanh), recognise(nn.Flatten())
    ('relu', ELU(alpha=2.0), 'tanh', None)
    """
    name, settings = _recognise(nonlinearity)
    return nonlinearity if name and settings != _TABLE[name].settings else name


# --- recognition ----------------------------------------------------------------------------------------------------


def _leaky(mean: float, std: float) -> Branches:
    """Leaky ReLU with a random slope; two slopes at `mean ± std` have the same first two moments of the output."""
    slopes = (mean - std, mean + std) if std else (mean,)
    return tuple((1 / len(slopes), functools.partial(F.leaky_relu, negative_slope=slope)) for slope in slopes)


def _rrelu(lower: float, upper: float) -> Branches:
    return _leaky((lower + upper) / 2, (upper - lower) / math.sqrt(12))


def _dropout(p: float) -> Branches:
    return ((p, torch.zeros_like), (1 - p, functools.partial(torch.mul, other=1 / (1 - p) if p < 1 else 0.0)))


def _identity(x: Tensor) -> Tensor:
    return x.clone()


@dataclass(frozen=True)
class _Entry:
    """One row of the table: the function, its settings with their defaults (NaN: no default), the modules."""

    function: Callable[..., Tensor]
    settings: Mapping[str, Setting] = field(default_factory=dict)
    modules: tuple[type[nn.Module], ...] = ()
    mixture: Callable[..., Branches] | None = None


_TABLE: dict[str, _Entry] = {
    "celu": _Entry(F.celu, {"alpha": 1.0}, (nn.CELU,)),
    "cos": _Entry(torch.cos),
    "dropout": _Entry(F.dropout, {"p": 0.5}, (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d), _dropout),
    "elu": _Entry(F.elu, {"alpha": 1.0}, (nn.ELU,)),
    "erf": _Entry(torch.erf),
    "gelu": _Entry(F.gelu, {"approximate": "none"}, (nn.GELU,)),
    "hardshrink": _Entry(F.hardshrink, {"lambd": 0.5}, (nn.Hardshrink,)),
    "hardsigmoid": _Entry(F.hardsigmoid, {}, (nn.Hardsigmoid,)),
    "hardswish": _Entry(F.hardswish, {}, (nn.Hardswish,)),
    "hardtanh": _Entry(F.hardtanh, {"min_val": -1.0, "max_val": 1.0}, (nn.Hardtanh,)),
    "leaky_relu": _Entry(F.leaky_relu, {"negative_slope": 0.01}, (nn.LeakyReLU,)),
    "linear": _Entry(_identity, {}, (nn.Identity,)),
    "logsigmoid": _Entry(F.logsigmoid, {}, (nn.LogSigmoid,)),
    "mish": _Entry(F.mish, {}, (nn.Mish,)),
    "prelu": _Entry(F.prelu, {"mean": 0.25, "std": 0.0}, (nn.PReLU,), _leaky),
    "relu": _Entry(F.relu, {}, (nn.ReLU,)),
    "relu6": _Entry(F.relu6, {}, (nn.ReLU6,)),
    "rrelu": _Entry(F.rrelu, {"lower": 1 / 8, "upper": 1 / 3}, (nn.RReLU,), _rrelu),
    "selu": _Entry(F.selu, {}, (nn.SELU,)),
    "sigmoid": _Entry(torch.sigmoid, {}, (nn.Sigmoid,)),
    "silu": _Entry(F.silu, {}, (nn.SiLU,)),
    "sin": _Entry(torch.sin),
    "softplus": _Entry(F.softplus, {"beta": 1.0, "threshold": 20.0}, (nn.Softplus,)),
    "softshrink": _Entry(F.softshrink, {"lambd": 0.5}, (nn.Softshrink,)),
    "softsign": _Entry(F.softsign, {}, (nn.Softsign,)),
    "tanh": _Entry(torch.tanh, {}, (nn.Tanh,)),
    "tanhshrink": _Entry(F.tanhshrink, {}, (nn.Tanhshrink,)),
    "threshold": _Entry(F.threshold, {"threshold": math.nan, "value": math.nan}, (nn.Threshold,)),
}
_ALIASES: dict[str, tuple[str, dict[str, Setting]]] = {
    **{f"conv{n}d": ("linear", {}) for n in (1, 2, 3)},
    **{f"conv_transpose{n}d": ("linear", {}) for n in (1, 2, 3)},
    "gelu_tanh": ("gelu", {"approximate": "tanh"}),
    "identity": ("linear", {}),
    "swish": ("silu", {}),
}
_MIXING = {
    "glu": "it multiplies one half of its input by the other",
    **dict.fromkeys(
        ("softmax", "softmin", "log_softmax", "gumbel_softmax", "softmax2d"), "it normalizes over a dimension"
    ),
    "multi_head_attention_forward": "it mixes positions",
}
_MIXING_MODULES: dict[type[nn.Module], str] = {
    nn.GLU: "glu",
    nn.Softmax: "softmax",
    nn.Softmax2d: "softmax2d",
    nn.Softmin: "softmin",
    nn.LogSoftmax: "log_softmax",
    nn.MultiheadAttention: "multi_head_attention_forward",
}
_MODULES = {module: name for name, entry in _TABLE.items() for module in entry.modules}


def _callables(name: str) -> list[object]:
    """Return what torch offers under `name`: F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, ..."""
    homes: tuple[object, ...] = (F, torch, Tensor, torch.special)
    found = (getattr(home, spelling, None) for home in homes for spelling in (name, f"{name}_"))
    return [function for function in found if callable(function)]


_CALLABLES = {function: name for name in _TABLE if name != "linear" for function in _callables(name)}
_CALLABLES[torch.special.expit] = "sigmoid"
_MIXING_CALLABLES = {function: name for name in _MIXING for function in _callables(name)}


def _recognise(nonlinearity: Nonlinearity) -> tuple[str | None, Mapping[str, Setting]]:
    """Return the canonical name and the settings; `(None, {})` for a callable that is not in the table."""
    if isinstance(nonlinearity, str):
        return _from_name(nonlinearity)
    if isinstance(nonlinearity, nn.Module):
        return _from_module(nonlinearity)
    if isinstance(nonlinearity, type):
        raise TypeError(f"nonlinearity must be an instance, got the class {nonlinearity.__name__}; write it with ()")
    try:
        name, mixing = _CALLABLES.get(nonlinearity), _MIXING_CALLABLES.get(nonlinearity)
    except TypeError:  # an unhashable callable is certainly none of torch's
        return None, {}
    if mixing:
        raise _mixes(mixing)
    return (name, _TABLE[name].settings) if name else (None, {})


def _from_name(name: str) -> tuple[str, Mapping[str, Setting]]:
    if name in _MIXING:
        raise _mixes(name)
    canonical, changed = _ALIASES.get(name, (name, {}))
    if canonical not in _TABLE:
        raise ValueError(
            f"nonlinearity {name!r} is not known; closest: {', '.join(closest(name.lower(), names()))}. "
            "A module such as nn.ELU(alpha=2.0) or any elementwise callable (tensor -> tensor) may be passed instead"
        )
    return canonical, {**_TABLE[canonical].settings, **changed}


def _from_module(module: nn.Module) -> tuple[str | None, Mapping[str, Setting]]:
    """Recognise torch's classes, and subclasses that keep their forward."""
    for base in type(module).__mro__:
        if getattr(type(module), "forward", None) is not getattr(base, "forward", None):
            break
        if base in _MIXING_MODULES:
            raise _mixes(_MIXING_MODULES[base])
        if base in _MODULES:
            name = _MODULES[base]
            if isinstance(module, nn.PReLU):
                return name, _prelu_settings(module)
            return name, {key: getattr(module, key) for key in _TABLE[name].settings}
    return None, {}


def _prelu_settings(module: nn.PReLU) -> Mapping[str, Setting]:
    """Return mean and std of the slopes over the channels; torch's initial 0.25 while they are on the meta device."""
    if module.weight.is_meta:
        return _TABLE["prelu"].settings
    slopes = module.weight.detach().to("cpu", torch.float64)
    return {"mean": slopes.mean().item(), "std": slopes.std(correction=0).item()}


def _with_slope(name: str | None, nonlinearity: Nonlinearity, slope: float) -> Mapping[str, Setting]:
    if name not in ("leaky_relu", "prelu") or isinstance(nonlinearity, nn.Module):
        raise ValueError(
            f"negative_slope={slope} has a meaning for the names leaky_relu and prelu only, not for {nonlinearity!r}"
        )
    if isinstance(slope, bool) or not isinstance(slope, (int, float)) or not math.isfinite(slope):
        raise ValueError(f"negative_slope must be a finite number, got {slope!r}")
    return {"negative_slope": float(slope)} if name == "leaky_relu" else {"mean": float(slope), "std": 0.0}


def _mixes(name: str) -> NotImplementedError:
    return NotImplementedError(
        f"nonlinearity {name!r} has no gain: {_MIXING[name]}, so its output is not a function of one number. "
        "Give the gain itself, or the nonlinearity of a part (sigmoid inside glu)"
    )


# --- from what was recognised to functions --------------------------------------------------------------------------


def _certain(function: Callable[[Tensor], Tensor]) -> Branches:
    return ((1.0, function),)


@functools.lru_cache(maxsize=1024)
def _named(name: str, settings: tuple[tuple[str, Setting], ...]) -> Elementwise:
    entry = _TABLE[name]
    missing = [key for key, value in settings if value != value]
    if missing:
        raise ValueError(
            f"nonlinearity {name!r} needs finite {' and '.join(missing)}; pass a module, such as nn.Threshold(0.1, 0.0)"
        )
    branches = (
        entry.mixture(**dict(settings))
        if entry.mixture
        else ((1.0, functools.partial(entry.function, **dict(settings))),)
    )
    defaults = dict(settings) == entry.settings
    shown = "" if defaults else "(" + ", ".join(f"{key}={value!r}" for key, value in settings) + ")"
    return Elementwise(name + shown, name, dict(settings), branches, shared=name == "prelu")


def _custom_module(module: nn.Module) -> Elementwise:
    """A float64 copy on the CPU, in evaluation mode; not remembered, since its parameters may change."""
    label = type(module).__qualname__
    try:
        frozen = copy.deepcopy(module, _without_hooks(module)).to("cpu", torch.float64).eval()
    except Exception as error:
        meta = " (it is on the meta device, so it has no values yet)" if isinstance(error, NotImplementedError) else ""
        raise ValueError(f"nonlinearity {label} cannot be copied in order to try it{meta}: {error}") from error
    for parameter in frozen.parameters():
        parameter.requires_grad_(False)
    return Elementwise(label, None, {}, _certain(frozen))


def _without_hooks(module: nn.Module) -> dict[int, object]:
    """Return a memo for deepcopy that replaces every table of hooks by an empty one: what they hold may be anything."""
    tables = (table for part in module.modules() for key, table in vars(part).items() if key.endswith("_hooks"))
    return {id(table): OrderedDict() for table in tables}


_MEMOS: dict[int, tuple[weakref.ref[object], Memo]] = {}


def _memo_of(function: object) -> Memo:
    """Return the memo of a callable, found by identity and dropped together with it."""
    key = id(function)
    try:
        reference = weakref.ref(function, lambda _: _MEMOS.pop(key, None))
    except TypeError:
        return {}
    return _MEMOS.setdefault(key, (reference, {}))[1]
