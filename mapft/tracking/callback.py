"""Trackers during training. One that fails is switched off with one warning, and training continues."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from accelerate import PartialState
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from mapft.config import Config
from mapft.config.run_folder import RunFolder
from mapft.tracking.trackers import TRACKERS, Job, Tracker

logger = logging.getLogger(__name__)


class GuardedTracker:
    """A tracker that is opened on first use and switched off at its first failure.

    It has the methods of `Tracker` and no others, so that a misspelt one is an error of the caller, not a failure.
    """

    def __init__(self, name: str, job: Job) -> None:
        self.name, self.job = name, job
        self.failed = False
        self._tracker: Tracker | None = None

    def open(self) -> None:
        """Open the tracker now."""
        self._call(lambda tracker: None)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """`Tracker.log`."""
        self._call(lambda tracker: tracker.log(step, metrics))

    def table(self, step: int, columns: Mapping[str, list[Any]]) -> None:
        """`Tracker.table`."""
        self._call(lambda tracker: tracker.table(step, columns))

    def evaluation(self, evaluation: Any) -> None:
        """`Tracker.evaluation`."""
        self._call(lambda tracker: tracker.evaluation(evaluation))

    def close(self, failed: bool) -> None:
        """`Tracker.close`, where the tracker was opened."""
        if self._tracker is not None:
            self._call(lambda tracker: tracker.close(failed))

    def _call(self, action: Callable[[Tracker], None]) -> None:
        if self.failed:
            return
        try:
            self._tracker = self._tracker or TRACKERS[self.name](self.job)
            action(self._tracker)
        except Exception as error:
            self.failed = True
            logger.warning(f"tracking={self.name} failed and is switched off; logs.jsonl is complete: {error}")


class Tracking(TrainerCallback):
    """Sends the metrics and completions of one training to the trackers; as a context manager, closes them.

    job: name of the mode or the visit. run_name: of its run. extra_metrics: returns what every log
    holds besides. steps_per_iteration: optimizer steps of one PPO iteration. completions: returns the columns of the
    last rollout.
    """

    def __init__(
        self,
        config: Config,
        folder: RunFolder,
        job: str,
        run_name: str,
        extra_metrics: Callable[[], Mapping[str, float]],
        steps_per_iteration: int,
    ) -> None:
        self.every, self.steps_per_iteration = config.tracking.completions_every, steps_per_iteration
        self.extra_metrics = extra_metrics
        self.completions: Callable[[], Mapping[str, list[Any]]] = dict
        self.trackers = [GuardedTracker(name, Job(config, folder, job, run_name)) for name in config.tracking.names()]

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Open the trackers before any process waits for another."""
        if state.is_world_process_zero:
            for tracker in self.trackers:
                tracker.open()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Every number."""
        if state.is_world_process_zero and logs:
            step = state.global_step
            numbers = {name: value for name, value in logs.items() if isinstance(value, int | float)}
            for tracker in self.trackers:
                tracker.log(step, {**numbers, **self.extra_metrics(), "step": step})

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """The completions, every tracking.completions_every iterations."""
        iteration, step = divmod(state.global_step, self.steps_per_iteration)
        if state.is_world_process_zero and self.every and step == 0 and iteration % self.every == 0:
            for tracker in self.trackers:
                tracker.table(state.global_step, self.completions())

    def __enter__(self) -> "Tracking":
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        if PartialState().is_main_process:
            for tracker in self.trackers:
                tracker.close(kind is not None)


def track_evaluation(config: Config, folder: RunFolder, evaluation: Any) -> bool:
    """Send the evaluation to the trackers, as the job `evaluate` of the run; returns whether none failed."""
    job = Job(config, folder, "evaluate", folder.path.name)
    trackers = [GuardedTracker(name, job) for name in config.tracking.names()]
    for tracker in trackers:
        tracker.evaluation(evaluation)
        tracker.close(failed=False)
    return not any(tracker.failed for tracker in trackers)
