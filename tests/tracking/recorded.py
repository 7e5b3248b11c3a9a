"""A tracker that records in memory what it is sent."""

from typing import ClassVar

from mapft.tracking.trackers import Tracker


class ListTracker(Tracker):
    """Like a tracker that a user adds. calls: of all its instances."""

    package: ClassVar[str] = "json"
    install: ClassVar[str] = "pip install json"
    calls: ClassVar[list[tuple]] = []

    def log(self, step, metrics):
        self.calls.append(("log", self.job.name, step, dict(metrics)))

    def table(self, step, columns):
        self.calls.append(("table", self.job.name, step, dict(columns)))

    def evaluation(self, evaluation):
        self.calls.append(("evaluation", self.job.name, evaluation))

    def close(self, failed):
        self.calls.append(("close", self.job.name, failed))
