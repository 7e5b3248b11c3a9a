"""Typed readers and writers of the files that a run folder holds; `RunFolder` names them.

A reader raises UserError for a file that is not as it was written, with what to do.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from mapft.config import Batches, Config
from mapft.config.run_folder import RunFolder
from mapft.evaluation.result import Evaluation
from mapft.palette import DualSolution, ScoreMatrix
from mapft.sampling.split import PromptSplit
from mapft.utils.files import parsing, read_json, read_table, write_atomically, write_json


@dataclass(frozen=True)
class RunRecord:
    """config.json: what the run is. identity: the settings and files that decide its result."""

    fingerprint: str
    identity: dict[str, Any]
    command: str
    versions: dict[str, str]
    config: dict[str, Any]


@dataclass(frozen=True)
class BatchesRecord:
    """batches.json: the batches of the run, and the memory that they need by the estimate, in 10^9 bytes."""

    batches: Batches
    peak_gb: float


@dataclass(frozen=True)
class Speed:
    """speed.json: seconds per response of generation, of all scores, and of a pass without gradients."""

    sampling: float
    scoring: float
    forward: float


@dataclass(frozen=True)
class SolutionRecord:
    """solution.json: the dual solution of the palette that is trained.

    base, sd: of the pilot's scores. requested: the palette's targets. adjusted: whether the requested palette was
    infeasible and `solution` is that of the nearest feasible one.
    """

    base: dict[str, float]
    sd: dict[str, float]
    requested: dict[str, float]
    adjusted: bool
    solution: DualSolution


@dataclass(frozen=True)
class TrainingRecord:
    """training.json, written when training is complete. lam: final multipliers; None for a mode without any."""

    mode: str
    lam: dict[str, float] | None


def read_run_record(folder: RunFolder) -> RunRecord:
    """config.json."""
    with parsing(folder.config):
        return RunRecord(**read_json(folder.config))


def write_run_record(folder: RunFolder, record: RunRecord) -> None:
    """config.json."""
    write_json(folder.config, vars(record))


def read_prompts(folder: RunFolder, config: Config) -> PromptSplit:
    """prompts.parquet."""
    table = read_table(folder.prompts)
    with parsing(folder.prompts):
        return PromptSplit.of_table(table, config)


def read_batches(folder: RunFolder) -> BatchesRecord:
    """batches.json."""
    content = read_json(folder.batches)
    with parsing(folder.batches):
        return BatchesRecord(Batches(**content["batches"]), content["peak_gb"])


def write_batches(folder: RunFolder, record: BatchesRecord) -> None:
    """batches.json."""
    write_json(folder.batches, asdict(record))


def read_speed(folder: RunFolder) -> Speed:
    """speed.json."""
    content = read_json(folder.speed)
    with parsing(folder.speed):
        return Speed(**content)


def write_speed(folder: RunFolder, speed: Speed) -> None:
    """speed.json."""
    write_json(folder.speed, vars(speed))


def read_samples(folder: RunFolder) -> pd.DataFrame:
    """samples.parquet."""
    return read_table(folder.samples)


def write_table(path: Any, table: pd.DataFrame) -> None:
    """A parquet file, atomically."""
    write_atomically(path, lambda temporary: table.to_parquet(temporary, index=False))


def read_scores(folder: RunFolder, values: Sequence[str]) -> ScoreMatrix:
    """scores.parquet, columns in the order of `values`."""
    table = read_table(folder.scores)
    with parsing(folder.scores):
        return ScoreMatrix(table[list(values)].to_numpy(), list(values), table["prompt_id"].to_numpy())


def read_solution(folder: RunFolder) -> SolutionRecord:
    """solution.json."""
    content = read_json(folder.solution)
    with parsing(folder.solution):
        return SolutionRecord(**content | {"solution": DualSolution.from_dict(content["solution"])})


def write_solution(folder: RunFolder, record: SolutionRecord) -> None:
    """solution.json."""
    write_json(folder.solution, vars(record) | {"solution": record.solution.to_dict()})


def read_training(folder: RunFolder) -> TrainingRecord:
    """training.json."""
    with parsing(folder.training):
        return TrainingRecord(**read_json(folder.training))


def write_training(folder: RunFolder, record: TrainingRecord) -> None:
    """training.json."""
    write_json(folder.training, vars(record))


def read_evaluation(folder: RunFolder) -> Evaluation:
    """evaluation.json."""
    with parsing(folder.evaluation):
        return Evaluation.from_dict(read_json(folder.evaluation))


def write_evaluation(folder: RunFolder, evaluation: Evaluation) -> None:
    """evaluation.json."""
    write_json(folder.evaluation, evaluation.to_dict())
