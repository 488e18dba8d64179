"""Names as the user knows them: without the prefixes that wrappers add."""

from __future__ import annotations

from torch import nn

PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)
"""They call what they wrap `module`, as a user may call a child; so the owner must be asked."""

_WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"})


def clean(name: str, model: nn.Module) -> str:
    """Return the name of a module or stored parameter of `model` without the components that wrappers add.

    Wrappers are those of torch.compile, FSDP, checkpointing, DataParallel and DistributedDataParallel.

    >>> clean("module.net._orig_mod.0.weight", nn.DataParallel(nn.Identity()))
    'net.0.weight'
    >>> clean("module.0.weight", nn.ModuleDict({"module": nn.Sequential(nn.Linear(2, 2))}))
    'module.0.weight'
    """
    kept = []
    owner: object = model
    for part in name.split("."):
        if part not in _WRAPPERS and not (part == "module" and isinstance(owner, PARALLEL)):
            kept.append(part)
        owner = getattr(owner, part, None)
    return ".".join(kept)


def join(*parts: str) -> str:
    """Join the non-empty parts of a dotted name.

    >>> join("", "weight"), join("fc", "weight")
    ('weight', 'fc.weight')
    """
    return ".".join(part for part in parts if part)
