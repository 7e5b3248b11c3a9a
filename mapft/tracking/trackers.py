"""Weights & Biases and TensorBoard. A tracker that fails is left with one warning; training goes on."""

import dataclasses
import logging
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from accelerate import PartialState
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from mapft.config import Config
from mapft.glossary import EPISODES
from mapft.masking import masked
from mapft.ppo.config import PPOConfig
from mapft.sampling.prompts import text_of
from mapft.sampling.store import read_json, write_json

logger = logging.getLogger(__name__)

ROWS = 16  # of a completions table
LOGIN, FINISH = 30, 300  # seconds that W&B may wait for a key, and for its last uploads, before training goes on
IDS = "wandb.json"  # in a fit's folder: the W&B run of each job, so that a resumed one goes on in it
ARTIFACTS = {  # what a fit leaves in its folder, and what W&B calls it
    "scores.parquet": "score-matrix",
    "solution.json": "dual-solution",
    "decision.json": "dual-solution",
    "refinement.json": "refinement",
    "adapter": "model",
}


class Tracker(Protocol):
    """Where metrics go. Every method may fail; `Guarded` sees to that."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Metrics of a step, `episodes` among them."""

    def table(self, step: int, columns: dict[str, list[Any]]) -> None:
        """Prompts, completions and their scores."""

    def close(self, folder: Path, failed: bool) -> None:
        """The end; what is in the folder is kept where the tracker keeps files."""


class WandbTracker:
    """One W&B run for each job of a fit, continued when the fit is."""

    def __init__(self, config: Config, folder: Path, job: str, name: str):
        import wandb

        ids = read_json(folder / IDS) if (folder / IDS).exists() else {}
        if job not in ids:
            ids[job] = secrets.token_hex(4)
            write_json(folder / IDS, ids)
        settings = {key: value for key, value in dataclasses.asdict(config).items() if key != "tracking"}
        self.run = wandb.init(
            project=config.tracking.project,
            entity=config.tracking.entity,
            group=config.tracking.group or name,
            job_type=job,
            name=name if job == config.mode.name else f"{name} {job}",
            id=ids[job],
            resume="allow",
            config=masked(settings),
            tags=[config.palette.name, config.mode.name],
            dir=str(folder),
            reinit="create_new",
            settings=wandb.Settings(console="off", quiet=True, login_timeout=LOGIN, finish_timeout=FINISH),
        )
        self.run.define_metric(EPISODES, hidden=True)
        self.run.define_metric("*", step_metric=EPISODES)
        for value in config.rewards:
            self.run.define_metric(f"map/scores/{value}", step_metric=EPISODES, summary="last")

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """W&B drops the steps that it has already, so what a resumed training repeats is there once."""
        self.run.log(dict(metrics), step=step)

    def table(self, step: int, columns: dict[str, list[Any]]) -> None:
        """completions."""
        import wandb

        texts = {name: [text_of(text) for text in columns[name]] for name in ("prompt", "completion")}
        rows = [list(row) for row in zip(*(columns | texts).values(), strict=True)][:ROWS]
        self.run.log({"completions": wandb.Table(columns=list(columns), data=rows)}, step=step)

    def close(self, folder: Path, failed: bool) -> None:
        """Artifacts, unless the fit failed."""
        import wandb

        for file, kind in ARTIFACTS.items():
            path = folder / file
            if path.exists() and not failed:
                artifact = wandb.Artifact(f"{path.stem}-{self.run.id}", type=kind)
                (artifact.add_dir if path.is_dir() else artifact.add_file)(str(path))
                self.run.log_artifact(artifact)
        self.run.finish(exit_code=int(failed))


class TensorBoardTracker:
    """Event files in folder/tensorboard, against episodes."""

    def __init__(self, folder: Path):
        self.folder = str(folder / "tensorboard")
        self.writer: Any = None

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Scalars; what a killed training logged beyond this is no longer shown."""
        from torch.utils.tensorboard import SummaryWriter

        episodes = int(metrics[EPISODES])
        self.writer = self.writer or SummaryWriter(self.folder, purge_step=episodes)
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, episodes)

    def table(self, step: int, columns: dict[str, list[Any]]) -> None:
        """TensorBoard has no tables."""

    def close(self, folder: Path, failed: bool) -> None:
        """Flush."""
        if self.writer is not None:
            self.writer.close()


class Guarded:
    """A tracker that is opened at its first use, and given up at its first failure."""

    def __init__(self, name: str, opening: Callable[[], Tracker]):
        self.name, self._opening = name, opening
        self._tracker: Tracker | None = None
        self.failed = False

    def do(self, what: str, *arguments: Any) -> None:
        """Call a method of the tracker, unless it has failed before; `open` only opens it."""
        if self.failed or (what == "close" and self._tracker is None):
            return
        try:
            self._tracker = self._tracker or self._opening()
            if what != "open":
                getattr(self._tracker, what)(*arguments)
        except Exception as error:
            self.failed = True
            logger.warning(f"tracking={self.name} failed and is left out from here on; logs.jsonl has all: {error}")


class Tracking(TrainerCallback):
    """A fit's metrics, targets and completions to every tracker that is asked for. A context: it closes them.

    job: the mode, or the stage of a run; name: the run's. completions: gives the columns of the last rollout.
    """

    def __init__(
        self,
        config: Config,
        folder: Path,
        job: str,
        name: str,
        targets: Mapping[str, float],
        args: PPOConfig,
    ):
        self.folder, self.every = folder, config.tracking.completions_every
        self.targets = {f"map/target/{value}": target for value, target in targets.items()}
        self.args = args
        self.completions: Callable[[], Mapping[str, list[Any]]] = dict
        self.trackers: list[Guarded] = []
        if config.tracking.wandb:
            self.trackers.append(Guarded("wandb", lambda: WandbTracker(config, folder, job, name)))
        if config.tracking.tensorboard:
            self.trackers.append(Guarded("tensorboard", lambda: TensorBoardTracker(folder)))

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Open the trackers, before any process waits for another."""
        if state.is_world_process_zero:
            self._all("open")

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Every number, with the targets, against episodes."""
        if state.is_world_process_zero and logs:
            numbers = {name: value for name, value in logs.items() if isinstance(value, int | float)}
            step = state.global_step
            self._all("log", step, numbers | self.targets | {"step": step})

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """The completions of every few iterations."""
        iteration, within = divmod(state.global_step, self.args.steps_per_iteration)
        if state.is_world_process_zero and self.every and not within and iteration % self.every == 0:
            self._all("table", state.global_step, self.completions())

    def _all(self, what: str, *arguments: Any) -> None:
        for tracker in self.trackers:
            tracker.do(what, *arguments)

    def __enter__(self) -> "Tracking":
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        if PartialState().is_main_process:
            self._all("close", self.folder, kind is not None)


def track_evaluation(config: Config, folder: Path, summary: Mapping[str, Any]) -> bool:
    """Promise against realized, as the job `evaluate` of the run's group in W&B, with figures and report.

    Returns whether it is there.
    """
    tracker = Guarded("wandb", lambda: _EvaluationRun(config, folder, "evaluate", folder.name))
    tracker.do("promise", summary, folder)
    tracker.do("close", folder, False)
    return not tracker.failed


class _EvaluationRun(WandbTracker):
    def promise(self, summary: Mapping[str, Any], folder: Path) -> None:
        import wandb

        for name, value in summary["values"].items():
            for key in ("target", "predicted", "gap_sd"):
                if value.get(key) is not None:
                    self.run.summary[f"evaluation/{key}/{name}"] = value[key]
            for key in ("mean", "low", "high"):
                self.run.summary[f"evaluation/realized_{key}/{name}"] = value["realized"][key]
        for key in ("mean", "low", "high"):
            self.run.summary[f"evaluation/kl_{key}"] = summary["kl"][key]
        self.run.summary["evaluation/kl_predicted"] = summary["kl_predicted"]
        pictures = {path.stem: wandb.Image(str(path)) for path in sorted((folder / "figures").glob("*.png"))}
        self.run.log({f"evaluation/{name}": picture for name, picture in pictures.items()})

    def close(self, folder: Path, failed: bool) -> None:
        import wandb

        report = wandb.Artifact(f"report-{self.run.id}", type="report")
        for file in ("report.html", "report.md", "report.csv", "evaluation.json"):
            report.add_file(str(folder / file))
        self.run.log_artifact(report)
        super().close(folder, failed)
