"""TensorBoard."""

from collections.abc import Mapping
from typing import Any, ClassVar

from mapft.tracking.glossary import EPISODES
from mapft.tracking.trackers.base import Job, Tracker


class TensorBoardTracker(Tracker):
    """Event files in the job's folder; the axis is episodes."""

    package: ClassVar[str] = "tensorboard"
    install: ClassVar[str] = "pip install 'mapft[tensorboard]'"

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.writer: Any = None

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Scalars; a resumed training replaces what was logged after its checkpoint."""
        from torch.utils.tensorboard import SummaryWriter

        episodes = int(metrics[EPISODES])
        self.writer = self.writer or SummaryWriter(str(self.job.folder.tensorboard), purge_step=episodes)
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, episodes)

    def close(self, failed: bool) -> None:
        """Write what is still in memory."""
        if self.writer is not None:
            self.writer.close()
