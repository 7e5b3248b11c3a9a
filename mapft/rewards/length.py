"""Length of a response."""

from dataclasses import dataclass
from enum import StrEnum
from math import inf

from mapft.config.fields import setting
from mapft.rewards.text_score import TextScore


class LengthUnit(StrEnum):
    """Words are separated by white space."""

    characters = "characters"
    words = "words"


@dataclass(frozen=True, kw_only=True)
class LengthScore(TextScore):
    """r(x, y) = sign * length of the response in `unit`, or sign * -|length - best| where `best` is set."""

    unit: LengthUnit = setting(LengthUnit.words, "What is counted.")
    best: float | None = setting(None, "Ideal length.", unit="as in `unit`", null="score the length itself")

    @property
    def raw_bounds(self) -> tuple[float, float]:
        return (0.0, inf) if self.best is None else (-inf, 0.0)

    def score_one(self, prompt: str, response: str) -> float:
        length = len(response) if self.unit == LengthUnit.characters else len(response.split())
        return float(length) if self.best is None else -abs(length - self.best)
