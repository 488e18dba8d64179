"""Weight initialization for PyTorch Lightning: sets the variance each layer should have, shows it, and checks it."""

from lightning_init import fans, initializers, structural
from lightning_init.callbacks import InitCallback, SignalMonitor
from lightning_init.diagnosis import diagnose
from lightning_init.functional import calibrate, initialize
from lightning_init.report import Report
from lightning_init.rules import Rule

__all__ = [
    "InitCallback",
    "Report",
    "Rule",
    "SignalMonitor",
    "calibrate",
    "diagnose",
    "fans",
    "initialize",
    "initializers",
    "structural",
]
