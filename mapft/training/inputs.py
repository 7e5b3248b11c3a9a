"""The inputs of a training mode."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from mapft.config import Config, ModeConfig
from mapft.config.run_folder import RunFolder
from mapft.palette import DualSolution, ScoreMatrix
from mapft.rewards import Score
from mapft.sampling.split import PromptSplit
from mapft.utils.terminal import Update


@dataclass(frozen=True)
class TrainingInputs:
    """Settings and results of the stages before training.

    scores: of every value. samples: of the pilot, see `sampling.responses.generate`. matrix: their scores. solution: of
    the palette. folder: of the run, where the mode writes adapter/. progress: a context manager whose value is called
    with (text, done, total). train_variant: trains the same run in another mode, in its own folder, and returns its
    adapter; every process must call it.
    """

    config: Config
    scores: Mapping[str, Score]
    samples: pd.DataFrame
    matrix: ScoreMatrix
    solution: DualSolution
    prompts: PromptSplit
    folder: RunFolder
    progress: Callable[[], AbstractContextManager[Update]]
    train_variant: Callable[[ModeConfig], Path]

    def pilot_groups(self) -> list[Any]:
        """The pilot's responses with their scores, for replay."""
        from mapft.training.fit import pilot_groups

        scored = self.samples.assign(**{name: self.matrix.column(name) for name in self.matrix.values})
        return pilot_groups(scored, list(self.scores))
