"""Memory of a run on each device, estimated before anything is loaded, and the batches that fit."""

from mapft.planning.batches import most_bytes, undivided
from mapft.planning.memory import GB, SHARDED, USABLE, Memory, capacity, estimate
from mapft.planning.phases import CannotEstimate, Phases

__all__ = [
    "GB",
    "SHARDED",
    "USABLE",
    "CannotEstimate",
    "Memory",
    "Phases",
    "capacity",
    "estimate",
    "most_bytes",
    "undivided",
]
