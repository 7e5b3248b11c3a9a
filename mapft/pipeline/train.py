"""Stage `train`: train the policy in the mode of the run -> adapter/, training.json."""

from pathlib import Path

from mapft.config import ModeConfig
from mapft.pipeline.artifacts import TrainingRecord, write_training
from mapft.pipeline.batches import batched_config
from mapft.pipeline.run import Run
from mapft.pipeline.sample import sample
from mapft.pipeline.score import score
from mapft.pipeline.solve import solve
from mapft.training.inputs import TrainingInputs


def check(run: Run) -> None:
    """UserError, before the pilot, for a model that the adapter of the run does not fit."""
    from mapft.training.adapter import check_trainable
    from mapft.utils.device import free_memory

    if run.is_main and not run.folder.training.exists():
        check_trainable(run.config)
        free_memory()


def train(run: Run) -> None:
    """Train, continuing from the last checkpoint of a run that was stopped; all processes take part."""
    if run.folder.training.exists():
        return
    mode = run.config.mode
    lam = mode.train(
        TrainingInputs(
            config=batched_config(run),
            scores=run.scores,
            samples=run.samples,
            matrix=run.matrix,
            solution=run.solution,
            prompts=run.prompts,
            folder=run.folder,
            progress=run.progress,
            train_variant=lambda other: train_variant(run, other),
        )
    )
    if run.is_main:
        write_training(run.folder, TrainingRecord(mode.name, lam))
    run.wait_for(run.folder.training)


def train_variant(run: Run, mode: ModeConfig) -> Path:
    """The adapter of the same run in another mode, trained in its own folder unless it is there."""
    variant = run.variant(mode)
    with variant.lock():
        for stage in (sample, score, solve, train):
            stage(variant)
    return variant.folder.adapter
