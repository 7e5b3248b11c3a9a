"""The base of the scores that are computed from the texts alone, without a model."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from mapft.rewards.score import NO_COLUMNS, Columns, Score, WithoutWeights


@dataclass(frozen=True, kw_only=True)
class TextScore(Score, WithoutWeights):
    """Settings and scorer in one."""

    @abstractmethod
    def score_one(self, prompt: str, response: str) -> float:
        """The score of one response, before its sign."""

    def load(self, name: str) -> Self:
        return self

    def score(self, prompts: Sequence[str], responses: Sequence[str], columns: Columns = NO_COLUMNS) -> np.ndarray:
        """(N,) float64."""
        raw = [self.score_one(prompt, response) for prompt, response in zip(prompts, responses, strict=True)]
        return self.sign * np.asarray(raw, dtype=float)
