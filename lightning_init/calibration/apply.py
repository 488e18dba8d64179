"""From a plan and a calibration to an initialized, calibrated model: what `InitCallback` calls."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from torch import nn

from lightning_init import initializers
from lightning_init.apply import apply_, population_std
from lightning_init.calibration.base import Adjustments, Calibration, Progress, first
from lightning_init.calibration.batches import undrawn
from lightning_init.nonlinearities import Nonlinearity
from lightning_init.options import FansFrom, Frozen
from lightning_init.plan import Plan, make_plan
from lightning_init.report import Report
from lightning_init.rules import InitializerLike, Rules


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


def apply_calibrated_(
    plan: Plan, model: nn.Module, calibration: Calibration, batches: Iterable[object], progress: Progress | None = None
) -> tuple[Report, Adjustments]:
    """Write `plan` into `model`, calibrate what the plan initialized, and return the report and what was adjusted.

    Args:
        plan: of `model`, made with `calibration.start` as its initializer.
        model: runs on the first of `batches`.
        calibration: what to do after the plan.
        batches: as in `Calibration.calibrate_`; a DataLoader's sampler and the random streams are left as they were.
        progress: as in `Calibration.calibrate_`.

    Returns:
        The report, whose achieved stds are those after the calibration and whose reasons name what it did.

    Raises:
        TypeError, ValueError: as `apply_` and `Calibration.calibrate_`; the model is then exactly as it was.

    >>> import torch
    >>> from lightning_init.calibration import Lsuv
    >>> from lightning_init.plan import make_plan
    >>> model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))
    >>> report, done = apply_calibrated_(make_plan(model, Lsuv().start), model, Lsuv(), [torch.rand(16, 8)])
    >>> report.entries[0].why  # doctest: +ELLIPSIS
    'Linear weight; Lsuv: output variance ... -> 1 by a factor ...'
    """
    chosen = [assignment for assignment in plan.assignments if assignment.initializer is not None]
    undo = [assignment.place.snapshot() for assignment in chosen]
    try:
        report = apply_(plan)
        with undrawn(batches) as copies:
            done = calibration.calibrate_(
                model, copies, only=[assignment.name for assignment in chosen], seed=plan.seed, progress=progress
            )
    except BaseException:
        for restore in undo:
            restore()
        raise
    return _told(report, plan, done, type(calibration).__name__), done


def _told(report: Report, plan: Plan, done: Adjustments, method: str) -> Report:
    whys = {one.parameter: one.why for one in done.layers if one.factor is not None}
    changed = {
        name: (whys.get(assignment.name), population_std(assignment.place.read()))
        for assignment in plan.assignments
        if assignment.initializer is not None and assignment.name in whys
        for name in assignment.place.stored
    }
    entries = [
        replace(entry, achieved_std=changed[entry.name][1], why=f"{entry.why}; {method}: {changed[entry.name][0]}")
        if entry.name in changed
        else entry
        for entry in report.entries
    ]
    return Report(report.seed, tuple(entries))
