"""Inputs of a training mode, for several test modules."""

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

from mapft.config.run_folder import RunFolder
from mapft.palette import Palette, ScoreMatrix, solve_dual
from mapft.sampling.split import PromptSplit
from mapft.training.inputs import TrainingInputs
from tests.configs import make_config

COV = np.array([[1.0, 0.6], [0.6, 4.0]])


def gaussian_matrix() -> ScoreMatrix:
    """Scores N(0, COV) under p0: p_lam is N(COV lam, COV), at a KL of lam' COV lam / 2 nats."""
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(60_000, 2)) @ np.linalg.cholesky(COV).T
    return ScoreMatrix(scores, ["a", "b"], np.repeat(np.arange(30_000), 2))


def quiet_progress() -> Any:
    """A progress display that shows nothing."""
    return nullcontext(lambda text, done, total: None)


def make_inputs(folder: Path, mode: Any, matrix: ScoreMatrix | None = None, **fields: Any) -> TrainingInputs:
    """Inputs for values a and b with targets .4 and .5; no prompts, no progress, and no variants."""
    matrix = matrix or gaussian_matrix()
    config = fields.pop("config", None) or make_config(mode=mode)
    defaults = {
        "config": config,
        "scores": dict.fromkeys(matrix.values),
        "samples": pd.DataFrame({"prompt_id": matrix.prompt_ids}),
        "matrix": matrix,
        "solution": solve_dual(matrix, Palette(config.palette.absolute)),
        "prompts": PromptSplit([], [], []),
        "folder": RunFolder(folder),
        "progress": quiet_progress,
        "train_variant": None,
    }
    return TrainingInputs(**defaults | fields)


def replace_fit(monkeypatch: Any) -> list[SimpleNamespace]:
    """`fit` only records its arguments, in the list returned here, and returns the multipliers of its objective."""
    calls: list[SimpleNamespace] = []

    def fit(config, models, objective, prompts, stored, folder):
        calls.append(SimpleNamespace(config=config, models=models, objective=objective, prompts=prompts, folder=folder))
        return objective.lam

    monkeypatch.setattr("mapft.training.fit.fit", fit)
    monkeypatch.setattr(TrainingInputs, "pilot_groups", lambda inputs: [])
    return calls
