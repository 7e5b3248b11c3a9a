"""Weights & Biases."""

import dataclasses
import secrets
from collections.abc import Mapping
from typing import Any, ClassVar

from mapft.tracking.glossary import EPISODES
from mapft.tracking.trackers.base import Job, Tracker
from mapft.utils.files import read_json, write_json
from mapft.utils.redact import redact
from mapft.utils.text import text_of

TABLE_ROWS = 16
LOGIN_SECONDS, FINISH_SECONDS = 30, 300  # timeouts for a login, and for the last uploads
ARTIFACTS = {  # file, as an attribute of RunFolder: type of the W&B artifact
    "scores": "score-matrix",
    "solution": "dual-solution",
    "decision": "dual-solution",
    "refinement": "refinement",
    "adapter": "model",
}


class WandbTracker(Tracker):
    """One W&B run for each job, continued when the job is resumed."""

    package: ClassVar[str] = "wandb"
    install: ClassVar[str] = "pip install wandb"

    def __init__(self, job: Job) -> None:
        import wandb

        super().__init__(job)
        self.evaluated = False
        config, ids_file = job.config, job.folder.wandb_ids
        ids = read_json(ids_file) if ids_file.exists() else {}
        if job.name not in ids:
            ids[job.name] = secrets.token_hex(4)
            write_json(ids_file, ids)
        settings = {key: value for key, value in dataclasses.asdict(config).items() if key != "tracking"}
        self.run = wandb.init(
            project=config.tracking.project,
            entity=config.tracking.entity,
            group=config.tracking.group or job.run_name,
            job_type=job.name,
            name=job.run_name if job.name == config.mode.name else f"{job.run_name} {job.name}",
            id=ids[job.name],
            resume="allow",
            config=redact(settings),
            tags=[config.palette.name, config.mode.name],
            dir=str(job.folder.path),
            reinit="create_new",
            settings=wandb.Settings(
                console="off", quiet=True, login_timeout=LOGIN_SECONDS, finish_timeout=FINISH_SECONDS
            ),
        )
        self.run.define_metric(EPISODES, hidden=True)
        self.run.define_metric("*", step_metric=EPISODES)
        for value in config.rewards:
            self.run.define_metric(f"map/scores/{value}", step_metric=EPISODES, summary="last")

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Metrics of a step. W&B ignores steps that it has, so those that a resumed training repeats are there once."""
        self.run.log(dict(metrics), step=step)

    def table(self, step: int, columns: Mapping[str, list[Any]]) -> None:
        """The first TABLE_ROWS rows as the table `completions`; messages are shown as text."""
        import wandb

        texts = {name: [text_of(text) for text in columns[name]] for name in ("prompt", "completion")}
        rows = [list(row) for row in zip(*(dict(columns) | texts).values(), strict=True)][:TABLE_ROWS]
        self.run.log({"completions": wandb.Table(columns=list(columns), data=rows)}, step=step)

    def evaluation(self, evaluation: Any) -> None:
        """Predicted and realized levels in the summary, the figures, and, at the end, the report as an artifact."""
        import wandb

        self.evaluated, folder = True, self.job.folder
        summary: dict[str, float] = {"evaluation/kl_predicted": evaluation.kl_predicted}
        for name, value in evaluation.values.items():
            for key in ("target", "predicted", "gap_sd"):
                if getattr(value, key) is not None:
                    summary[f"evaluation/{key}/{name}"] = getattr(value, key)
            for key in ("mean", "low", "high"):
                summary[f"evaluation/realized_{key}/{name}"] = getattr(value.realized, key)
        estimates = {"kl": evaluation.tuned.kl}
        estimates |= {"kl_to_target": evaluation.kl_to_target, "price_ratio": evaluation.price_ratio}
        for name, estimate in estimates.items():
            for key in ("mean", "low", "high") if estimate else ():
                summary[f"evaluation/{name}_{key}"] = getattr(estimate, key)
        self.run.summary.update(summary)
        figures = {path.stem: wandb.Image(str(path)) for path in sorted(folder.figures.glob("*.png"))}
        self.run.log({f"evaluation/{name}": figure for name, figure in figures.items()})

    def close(self, failed: bool) -> None:
        """The report and, unless the job failed, the files of ARTIFACTS."""
        import wandb

        folder = self.job.folder
        if self.evaluated:
            report = wandb.Artifact(f"report-{self.run.id}", type="report")
            for path in (*map(folder.report, ("html", "md", "csv")), folder.evaluation):
                report.add_file(str(path))
            self.run.log_artifact(report)
        for attribute, kind in ARTIFACTS.items():
            path = getattr(folder, attribute)
            if path.exists() and not failed:
                artifact = wandb.Artifact(f"{path.stem}-{self.run.id}", type=kind)
                (artifact.add_dir if path.is_dir() else artifact.add_file)(str(path))
                self.run.log_artifact(artifact)
        self.run.finish(exit_code=int(failed))
