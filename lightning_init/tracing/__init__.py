"""Which nonlinearity follows each layer: `nonlinearity="auto"`."""

from lightning_init.tracing.followers import complaint, dataflow, followers
from lightning_init.tracing.walk import Follower

__all__ = ["Follower", "complaint", "dataflow", "followers"]
