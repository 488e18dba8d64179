"""Where a value lives: how the effective weight of a module is read and written.

`module.weight` is not always a parameter. Under `torch.nn.utils.parametrize` it is computed from `original` tensors
and must be written through `right_inverse`; the older hook-based `weight_norm`, `spectral_norm` and pruning keep
`weight_g`/`weight_v` or `weight_orig` instead. Writing `.weight` itself is silently lost in each case (PT#180968).
"""

from lightning_init.placement.finding import address, places
from lightning_init.placement.place import Place, restored_on_error

__all__ = ["Place", "address", "places", "restored_on_error"]
