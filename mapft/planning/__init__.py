"""`mapft plan`: what a training needs of each device, before anything is loaded."""

from mapft.planning.memory import Memory, estimate
from mapft.planning.plan import plan

__all__ = ["Memory", "estimate", "plan"]
