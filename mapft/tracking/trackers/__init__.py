"""Trackers, one file each; TRACKERS names them.

A new tracker is one file with a subclass of `Tracker`, one line in TRACKERS, one YAML in conf/tracking, and one row in
tests/tracking/test_contract.py. Importing this package imports no tracking library.
"""

from collections.abc import Sequence
from importlib.util import find_spec

from mapft.tracking.trackers.base import Job, Tracker
from mapft.tracking.trackers.tensorboard import TensorBoardTracker
from mapft.tracking.trackers.wandb import WandbTracker
from mapft.utils.errors import UserError

__all__ = ["TRACKERS", "Job", "Tracker", "check_trackers"]

TRACKERS: dict[str, type[Tracker]] = {
    "wandb": WandbTracker,
    "tensorboard": TensorBoardTracker,
}


def check_trackers(names: Sequence[str]) -> None:
    """UserError for an unknown tracker, and for one whose package is not installed."""
    for name in names:
        if name not in TRACKERS:
            raise UserError(f"The tracker {name!r} in tracking.trackers is unknown; use one of {', '.join(TRACKERS)}.")
        unimplemented = sorted(getattr(TRACKERS[name], "__abstractmethods__", ()))
        assert not unimplemented, f"{TRACKERS[name].__name__} does not implement {', '.join(unimplemented)}"
        if find_spec(TRACKERS[name].package) is None:
            raise UserError(
                f"tracking={name} needs the package {TRACKERS[name].package}, which is not installed; run "
                f"{TRACKERS[name].install}, or choose another tracker."
            )
