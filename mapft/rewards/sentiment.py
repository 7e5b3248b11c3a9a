"""How kind the words of a response are, by a lexicon."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mapft.errors import UserError
from mapft.rewards.plain import PlainScore


@dataclass(frozen=True)
class SentimentScore(PlainScore):
    """r(x, y) = sign * VADER's compound score of the response, in [-1, 1] (Hutto and Gilbert 2014)."""

    sign: float = 1.0
    unit = "compound"
    bounds = (-1.0, 1.0)

    def load(self, name: str) -> "SentimentScore":
        try:
            import vaderSentiment  # noqa: F401
        except ImportError as error:
            raise UserError(f"rewards.{name} needs the VADER lexicon; pip install 'mapft[sentiment]'.") from error
        return self

    @cached_property
    def _analyzer(self) -> Any:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

        return SentimentIntensityAnalyzer()

    def one(self, prompt: str, response: str) -> float:
        return self._analyzer.polarity_scores(response)["compound"]
