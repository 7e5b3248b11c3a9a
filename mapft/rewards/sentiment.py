"""Sentiment of a response by a lexicon."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

from mapft.rewards.text_score import TextScore
from mapft.utils.errors import UserError


@dataclass(frozen=True, kw_only=True)
class SentimentScore(TextScore):
    """r(x, y) = sign * VADER's compound score of the response, in [-1, 1] (Hutto and Gilbert 2014)."""

    unit = "compound"
    raw_bounds = (-1.0, 1.0)

    def load(self, name: str) -> Self:
        try:
            import vaderSentiment  # noqa: F401
        except ImportError as error:
            raise UserError(f"rewards.{name} needs the VADER lexicon; pip install 'mapft[sentiment]'.") from error
        return self

    @cached_property
    def _analyzer(self) -> Any:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

        return SentimentIntensityAnalyzer()

    def score_one(self, prompt: str, response: str) -> float:
        return self._analyzer.polarity_scores(response)["compound"]
