"""What was measured of a trained run: realized levels, and its answers to held-out prompts beside the base model's."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from mapft.config import BASE, TUNED
from mapft.config.run_folder import RunFolder
from mapft.evaluation.result import Estimate, Evaluation
from mapft.palette.explain import display_units, format_number
from mapft.pipeline import artifacts
from mapft.ui.board import Board
from mapft.utils.files import parsing, read_table


@dataclass(frozen=True)
class Tuned:
    """An evaluated run. base, tuned: scored answers to held-out prompts."""

    evaluation: Evaluation
    base: pd.DataFrame
    tuned: pd.DataFrame

    @classmethod
    def of(cls, folder: RunFolder) -> "Tuned | None":
        """The evaluation in a run folder; None where there is none yet."""
        files = [folder.evaluation, folder.responses(BASE), folder.responses(TUNED)]
        if not all(file.exists() for file in files):
            return None
        evaluation, tables = artifacts.read_evaluation(folder), [read_table(file) for file in files[1:]]
        for file, table in zip(files[1:], tables, strict=True):
            with parsing(file):
                _ = table[["prompt_id", "prompt", "response", *evaluation.values]]
        return cls(evaluation, *(table[table["response"].notna()] for table in tables))

    def summary(self, board: Board) -> dict[str, Any]:
        """Targets, realized levels and KL, one entry per value of the board; None for a value that was not measured."""
        results, kl = self.evaluation.values, self.evaluation.tuned.kl
        return {
            "prompts": self.evaluation.prompts,
            "kl": [kl.mean, kl.low, kl.high],
            "targets": [results[name].target if name in results else None for name in board.matrix.values],
            "levels": [
                _level(results[name].realized, results[name].met, display_units(board.matrix, name)[0])
                if name in results
                else None
                for name in board.matrix.values
            ],
        }

    @cached_property
    def prompt_texts(self) -> dict[int, str]:
        """Held-out prompts by id."""
        first = self.tuned.drop_duplicates("prompt_id")
        return dict(zip(first["prompt_id"].tolist(), first["prompt"].tolist(), strict=True))

    def answers(self, prompt_id: int, board: Board) -> list[list[dict[str, Any]]]:
        """Answers of the base model and of the tuned one to a prompt, with their scores in the order of the board."""
        return [
            [
                {
                    "text": row["response"],
                    "scores": scores(board, {name: row.get(name) for name in board.matrix.values}),
                }
                for row in table[table["prompt_id"] == prompt_id].to_dict("records")
            ]
            for table in (self.base, self.tuned)
        ]


def _level(realized: Estimate, met: bool | None, sd: float) -> dict[str, Any]:
    text = f"{format_number(realized.mean, sd)} ± {format_number(realized.half_width, sd)}"
    return {"mean": realized.mean, "interval": [realized.low, realized.high], "met": met, "text": text}


def scores(board: Board, by_value: dict[str, Any]) -> list[str]:
    """Scores to a hundredth of the value's sd."""
    return [
        "-" if score is None else format_number(float(score), 10 * display_units(board.matrix, name)[0])
        for name, score in by_value.items()
    ]
