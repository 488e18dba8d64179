"""What becomes of alerts: a warning, text on TensorBoard, or the end of the training."""

from __future__ import annotations

from collections.abc import Sequence

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_warn

from lightning_init.callbacks._sinks import Sinks
from lightning_init.callbacks._trainer import callbacks_of, is_a
from lightning_init.signals.alerts import Alert, AlertError, Watch


def inspect(watch: Watch, index: int, trainer: Trainer, *, first: bool) -> list[Alert]:
    """Look at weights and gradients themselves, while they are here, and the first time at the optimizers.

    Args:
        watch: knows whether there is anything left to look at.
        index: of the point.
        trainer: has the optimizers.
        first: whether this is the first time.
    """
    found = watch.inspect(index) if watch.more else []
    later = any(is_a(one, "BaseFinetuning") for one in callbacks_of(trainer))  # it adds parameters when it wants
    if first and not later:
        trained = {one for each in trainer.optimizers for group in each.param_groups for one in group["params"]}
        found += watch.untrained(index, trained)
    return found


def speak(alerts: Sequence[Alert], sinks: Sinks | None, *, stop: bool) -> None:
    """Write text to TensorBoard, and warn once for each kind.

    Args:
        alerts: of one point.
        sinks: have TensorBoard, if it is there.
        stop: raise the first instead of warning.

    Raises:
        AlertError: if asked to.
    """
    for kind in dict.fromkeys(alert.kind for alert in alerts):
        first, *others = [alert for alert in alerts if alert.kind == kind]
        if sinks is not None:
            sinks.write_text(f"alerts/{kind}", "\n".join(f"- {alert}" for alert in (first, *others)), first.step)
        if stop:
            raise AlertError(first)
        more = f" (and so in {len(others)} other layers, see SignalMonitor.alerts)" if others else ""
        rank_zero_warn(f"SignalMonitor: {first}{more}")
