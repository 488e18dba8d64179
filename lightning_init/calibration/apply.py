"""From a plan and a calibration to an initialized, calibrated model: what `InitCallback` calls."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from torch import nn

from lightning_init.apply import apply_, population_std
from lightning_init.calibration.base import Adjustments, Calibration, Progress
from lightning_init.calibration.batches import undrawn
from lightning_init.plan import Plan
from lightning_init.report import Report


def apply_calibrated_(
    plan: Plan, model: nn.Module, calibration: Calibration, batches: Iterable[object], progress: Progress | None = None
) -> tuple[Report, Adjustments]:
    """Write `plan` into `model`, calibrate what no rule claims, and return the report and what was adjusted.

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
                model, copies, only=[one.name for one in chosen if not one.ruled], seed=plan.seed, progress=progress
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
