"""Calibrations: initializations that look at data. They start from an initializer and adjust its weights to a batch."""

from lightning_init.calibration.apply import apply_calibrated_
from lightning_init.calibration.base import Adjustment, Adjustments, Calibration, Progress
from lightning_init.calibration.denoising_autoencoders import DenoisingAutoencoders
from lightning_init.calibration.greedy import Greedy
from lightning_init.calibration.krahenbuhl import Krahenbuhl
from lightning_init.calibration.lsuv import Lsuv
from lightning_init.calibration.rbm import Rbm
from lightning_init.initializers import register

register("lsuv", Lsuv)
register("krahenbuhl", Krahenbuhl)
register("denoising_autoencoders", DenoisingAutoencoders)
register("rbm", Rbm)

__all__ = [
    "Adjustment",
    "Adjustments",
    "Calibration",
    "DenoisingAutoencoders",
    "Greedy",
    "Krahenbuhl",
    "Lsuv",
    "Progress",
    "Rbm",
    "apply_calibrated_",
]
