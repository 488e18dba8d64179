"""Variances measured through a module, with as many draws as make 5 % more than four standard errors."""

import torch

TOLERANCE = 0.05
_ENOUGH = (TOLERANCE / 4.5) ** 2


def measured(draw):
    """Pool the mean square of what `draw` returns, `(*sources, values)`, until it is known well enough.

    `values` are sums of products of independent entries of the sources, as in `weight @ input`. The relative variance
    of their mean square is then about `2 / n` for the values and for each source, `n` the entries drawn so far.
    """
    total, drawn = 0.0, []
    while not drawn or sum(2 / n for n in drawn) > _ENOUGH:
        tensors = draw()
        total += tensors[-1].detach().square().sum().item()
        drawn = [n + tensor.numel() for n, tensor in zip(drawn or [0] * len(tensors), tensors, strict=True)]
    return total / drawn[-1]


def normal_(weight, found, mode, gain=1.0):
    """Give every block of the layout `found` N(0, gain^2 / fan)."""
    with torch.no_grad():
        for block, view in zip(found.blocks, found.views(weight), strict=True):
            view.copy_(torch.randn(view.shape) * gain / block.fans.by(mode) ** 0.5)
