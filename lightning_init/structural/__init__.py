"""Initializers that look at the architecture: residual branches, transformers, width."""

from lightning_init.initializers import register
from lightning_init.structural.fixup import Fixup
from lightning_init.structural.mimetic import Mimetic
from lightning_init.structural.mup import Mup, coordinate_check
from lightning_init.structural.skip_init import SkipInit
from lightning_init.structural.t_fixup import TFixup

register("fixup", Fixup)
register("mimetic", Mimetic)
register("mup", Mup)
register("skip_init", SkipInit)
register("tfixup", TFixup)

__all__ = ["Fixup", "Mimetic", "Mup", "SkipInit", "TFixup", "coordinate_check"]
