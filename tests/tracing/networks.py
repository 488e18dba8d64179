"""Networks for the tests of tracing, and what is found in them."""

from collections.abc import Callable

from torch import Tensor, nn

from lightning_init.nonlinearities import Nonlinearity
from lightning_init.tracing import complaint, followers


def nonlinearities(model: nn.Module, batch: object = None) -> dict[str, Nonlinearity | None]:
    found = followers(model, batch)
    assert complaint(found) is None
    return {name: follower.nonlinearity for name, follower in found.items()}


class Two(nn.Module):
    """Two layers with whatever `between` does in the middle."""

    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.last = nn.Linear(4, 4)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.between(self.first(x)))


class Deciding(nn.Module):
    """Reorders the batch, and cannot be traced."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flip(0) if bool((x == x).all()) else x
