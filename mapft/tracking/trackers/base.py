"""The interface of a tracker."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from mapft.config import Config
from mapft.config.run_folder import RunFolder


@dataclass(frozen=True)
class Job:
    """One training of a run, or its evaluation.

    folder: of the run, or of one visit. name: the mode, the visit, or `evaluate`. run_name: of the run.
    """

    config: Config
    folder: RunFolder
    name: str
    run_name: str


class Tracker(ABC):
    """Receives the metrics of one job. Only the main process calls it; a method that raises switches the tracker off.

    package: name of the module that it imports. install: the command that installs it.
    """

    package: ClassVar[str]
    install: ClassVar[str]

    def __init__(self, job: Job) -> None:
        self.job = job

    @abstractmethod
    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Metrics of one optimizer step; they include `episodes`, the axis of every chart."""

    def table(self, step: int, columns: Mapping[str, list[Any]]) -> None:  # noqa: B027
        """Prompts, completions and their scores, by column; nothing for a tracker without tables."""

    def evaluation(self, evaluation: Any) -> None:  # noqa: B027
        """The `Evaluation` of the run; its report and figures are in the job's folder. Nothing by default."""

    @abstractmethod
    def close(self, failed: bool) -> None:
        """End the job; a tracker that stores artifacts stores those in the job's folder, unless the job failed."""
