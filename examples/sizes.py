"""`${sized:SMALL,LARGE}` in a config: SMALL when `size=cpu`, LARGE when `size=full`."""

from __future__ import annotations

from omegaconf import DictConfig, OmegaConf

from examples.errors import unknown

SIZES = ("cpu", "full")


def sized(small: object, large: object, *, _root_: DictConfig) -> object:
    """Return what belongs to the `size` of the config."""
    if _root_.size not in SIZES:
        raise unknown("size", str(_root_.size), SIZES)
    return large if _root_.size == "full" else small


OmegaConf.register_new_resolver("sized", sized, replace=True)
