"""`mapft plan`: memory of a training on each device, estimated before anything is loaded."""

from mapft.planning.memory import Memory, estimate
from mapft.planning.plan import plan

__all__ = ["Memory", "estimate", "plan"]
