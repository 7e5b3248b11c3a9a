"""Scores, and folders of runs, for the tests of the page."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from mapft.config import BASE, TUNED
from mapft.config.run_folder import RunFolder
from mapft.evaluation.result import Estimate
from mapft.palette import Palette, ScoreMatrix, solve_dual
from mapft.pipeline import artifacts
from tests.evaluation.results import evaluation, responses, value_result


def matrix(rows: int = 400, values: int = 3, per_prompt: int = 8) -> ScoreMatrix:
    """Correlated normal scores."""
    rng = np.random.default_rng(3)
    mixing = np.eye(values) - 0.25 * (1 - np.eye(values))
    names = [f"value_{number}" for number in range(values)]
    return ScoreMatrix(
        rng.normal(size=(rows, values)) @ mixing, names, np.repeat(np.arange(rows // per_prompt), per_prompt)
    )


def scored_run(folder: Path, text: str = "text") -> Path:
    """The folder of a run with scores, whose prompts and responses begin with `text`."""
    folder.mkdir(parents=True)
    matrix().to_parquet(folder / "scores.parquet")
    texts = {"prompt": [f"{text} {i // 8}" for i in range(400)], "response": [f"{text} {i}" for i in range(400)]}
    pd.DataFrame(texts).to_parquet(folder / "samples.parquet")
    (folder / "config.json").write_text(json.dumps({"command": "mapft score experiment=own seed=3 palette=hhh_50"}))
    return folder


def trained_run(path: Path, text: str = "text") -> Path:
    """The same with a palette that was trained and evaluated: two values with a target, and one free."""
    folder, scores = RunFolder(scored_run(path, text)), matrix()
    targets = {"value_0": 0.5, "value_1": 0.25}
    solution = solve_dual(scores, Palette(targets))
    artifacts.write_solution(folder, artifacts.SolutionRecord(scores.base, scores.sd, targets, False, solution))
    realized = {"value_0": Estimate(0.45, 0.4, 0.5), "value_1": Estimate(0.31, 0.21, 0.4)}
    values = {name: value_result(target=targets[name], realized=level) for name, level in realized.items()}
    values["value_2"] = value_result(target=None, realized=Estimate(-0.1, -0.2, 0.0), met=None, gap_sd=None)
    artifacts.write_evaluation(folder, evaluation(values, prompts=4))
    for policy in (BASE, TUNED):
        answers = [f"{text} of {policy} {row}" for row in range(8)]
        columns = {name: np.linspace(0, 1, 8) for name in scores.values}
        artifacts.write_table(
            folder.responses(policy), responses([0, 0, 1, 1, 2, 2, 3, 3], response=answers, **columns)
        )
    return path
