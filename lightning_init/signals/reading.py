"""A reading: the values of one point, some of them perhaps still on their way from a device, or on other ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from lightning_init.signals.gauges import Taken
from lightning_init.signals.statistics import Summary, pooled

Gather: TypeAlias = Callable[[Tensor], Tensor]


class Item(Protocol):
    """What gives some values of a point."""

    def rows(self) -> list[Summary]:
        """Return what this rank has measured; as many rows on every rank."""

    def values(self, rows: Sequence[Summary] | None = None) -> dict[str, float]:
        """Return tag -> value; of `rows` pooled over the ranks, where these are given."""


class Reading:
    """The values of one point.

    Args:
        weights: gives the values of weights.
        activations: those of activations.
        others: those of gradients and updates.
        travels: whether asking for the values at once would wait for a device.
        divided: each rank has measured its own part of the parameters, their gradients and updates.
    """

    def __init__(
        self,
        weights: Item,
        activations: Taken,
        others: Sequence[Item],
        *,
        travels: bool,
        divided: bool = False,
    ) -> None:
        self._weights = weights
        self._activations = activations
        self._others = others
        self._divided = divided
        self.travels = travels

    def values(self, gather: Gather | None = None, *, activations: bool = True) -> dict[str, float]:
        """Return tag -> value: weights and activations in depth order, then gradients and updates.

        Args:
            gather: turns a tensor into the stack of it from all ranks, called once; without it the values of what is
                divided among ranks are left out.
            activations: pool the activations over the ranks as well.
        """
        items = [self._weights, self._activations, *self._others]
        apart = {self._weights, *self._others} if self._divided else set()
        values: dict[str, float] = {}
        if gather is None:
            for item in items:
                if item not in apart:
                    values.update(item.values())
            return values
        if activations:
            apart.add(self._activations)
        over_ranks = _over_ranks([item for item in items if item in apart], gather)
        for item in items:
            values.update(item.values(over_ranks.get(item)))
        return values

    def lone(self) -> set[str]:
        """Return the tags of the activations that were a single number, and so have no variance to speak of."""
        return self._activations.lone()


def _over_ranks(items: Sequence[Item], gather: Gather) -> dict[Item, list[Summary]]:
    """Return the rows of each item, pooled over the ranks, at the price of one collective."""
    mine = [item.rows() for item in items]
    flat = [row for rows in mine for row in rows]
    if not flat:
        return {}
    ranks = gather(torch.tensor(flat, dtype=torch.float64)).tolist()
    rows = iter([pooled([rank[number] for rank in ranks]) for number in range(len(flat))])
    return {item: [next(rows) for _ in own] for item, own in zip(items, mine, strict=True)}
