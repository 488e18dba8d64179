"""`"auto"`: no options, any model. What stands around each layer decides, by theory."""

from lightning_init.auto.initializer import Auto
from lightning_init.initializers import register

register("auto", Auto)

__all__ = ["Auto"]
