"""What people call on a plain model, without a Trainer: `initialize`, and `calibrate` where data decide."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from lightning_init import initializers
from lightning_init.apply import apply_
from lightning_init.calibration import Calibration, Progress, apply_calibrated_
from lightning_init.calibration.base import first
from lightning_init.calibration.batches import undrawn
from lightning_init.nonlinearities import Nonlinearity
from lightning_init.options import FansFrom, Frozen
from lightning_init.plan import make_plan
from lightning_init.report import Report
from lightning_init.rules import InitializerLike, Rules


def initialize(
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
) -> Report:
    """Initialize `model` in place and return the report of what each parameter got, from which fans, and why.

    Args:
        model: any module on any device; its normalizations, buffers and unknown parameters stay as they are.
        initializer: a name (`initializers.names()`) or an instance, for the weights of every layer.
        rules: a mapping from globs over parameter names (first match wins) or a sequence of `Rule`s; values are
            names, instances or None (leave as it is).
        nonlinearity: None keeps the initializer's own convention; a name, module or callable uses its gain; `"auto"`
            finds, per layer, what follows it. It does not reach what a rule claims: `Rule` has its own.
        bias: initializer of biases; an LSTM's forget gate gets 1 with `"zeros"`. None keeps them.
        frozen: `"skip"` leaves parameters with `requires_grad=False` as they are; `"initialize"` does not.
        seed: of private generators keyed by parameter name; None derives it from the global seed. The global random
            stream is never advanced, so a second model gets the same values: members of an ensemble want a seed each.
        strict: raise if a parameter would be left at its default because nothing knows it.
        fans: `"torch"` reads fan_in and fan_out off the tensor, as torch.nn.init does, instead of off the module.

    Raises:
        TypeError, ValueError: something cannot be done; the model is then exactly as it was.
        KeyboardInterrupt: after Ctrl-C, which waits until everything is written; a second one does not wait.

    >>> report = initialize(nn.Linear(1024, 1024), "he_normal", seed=0)
    >>> weight = report.to_dict()["parameters"][0]
    >>> round(weight["target_std"], 6), weight["fan_in"], weight["why"]
    (0.044194, 1024, 'Linear weight')
    """
    found = initializers.get(initializer)
    calibration = found if isinstance(found, Calibration) and found.needs_data and found.brings else None
    plan = make_plan(
        model,
        initializer if calibration is None else calibration.start,
        rules=rules,
        nonlinearity=nonlinearity,
        bias=bias,
        frozen=frozen,
        seed=seed,
        strict=strict,
        fans=fans,
    )
    if calibration is None:
        return apply_(plan)
    return apply_calibrated_(plan, model, calibration, calibration.brings)[0]


def calibrate(
    model: nn.Module,
    calibration: InitializerLike,
    batches: Iterable[object],
    *,
    rules: Rules | None = None,
    nonlinearity: Nonlinearity | None = None,
    bias: InitializerLike | None = "zeros",
    frozen: Frozen = "skip",
    seed: int | None = None,
    strict: bool = False,
    fans: FansFrom = "module",
    progress: Progress | None = None,
) -> Report:
    """Initialize `model` in place, adjust its weights to the first of `batches`, and return the report.

    Nothing else is changed: train or eval mode, buffers (running statistics), gradients, and every random stream, that
    of a shuffling DataLoader included.

    Args:
        model: any module on any device; it runs in the mode that it is in.
        calibration: a name (`"lsuv"`, `"krahenbuhl"`) or an instance.
        batches: a DataLoader or any iterable of batches as `lightning_init.diagnose` takes them; one is taken.
        rules: as the options that follow, what `lightning_init.initialize` does with it.
        nonlinearity: see `rules`.
        bias: see `rules`.
        frozen: see `rules`.
        seed: see `rules`.
        strict: see `rules`.
        fans: see `rules`.
        progress: called with the name of each layer, the number of those done, and of all.

    Raises:
        TypeError, ValueError: something cannot be done, the layer is named; the model is then exactly as it was.

    >>> import torch
    >>> model, data = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4)), torch.rand(16, 8)
    >>> report = calibrate(model, "lsuv", [data], seed=0)
    >>> round(model(data).var(correction=0).item(), 2)
    1.0
    """
    found = initializers.get(calibration)
    if not isinstance(found, Calibration):
        raise TypeError(f"calibration must look at data, as lsuv does, got {found}: initialize is for this one")
    with undrawn(batches) as copies:
        seen = first(copies, found.takes)
    found = found.seeing(seen[0])
    plan = make_plan(
        model,
        found.start,
        rules=rules,
        nonlinearity=nonlinearity,
        bias=bias,
        frozen=frozen,
        seed=seed,
        strict=strict,
        fans=fans,
    )
    return apply_calibrated_(plan, model, found, seen, progress)[0]
