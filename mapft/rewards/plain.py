"""Scores without a model: the base of all kinds that read texts alone."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np


class PlainScore(ABC):
    """Settings and scorer in one; a kind says how it scores one response."""

    sign: float
    nbytes = 0

    @abstractmethod
    def one(self, prompt: str, response: str) -> float:
        """The raw score of one response, before its sign."""

    def load(self, name: str) -> "PlainScore":
        return self

    def files(self) -> list[str]:
        return []

    def estimated_nbytes(self) -> int:
        return 0

    def to_device(self) -> None:  # noqa: B027, there is nothing to move
        pass

    def to_host(self) -> None:  # noqa: B027, there is nothing to move
        pass

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        """(N,) float64."""
        raw = [self.one(prompt, response) for prompt, response in zip(prompts, responses, strict=True)]
        return self.sign * np.asarray(raw, dtype=float)
