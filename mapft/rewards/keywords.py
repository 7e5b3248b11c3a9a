"""Whether, or how often, a pattern occurs in a response."""

import re
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

from mapft.config.fields import pattern_error, require, setting
from mapft.rewards.text_score import TextScore


class KeywordsMeasure(StrEnum):
    """1 if the pattern occurs, else 0; or matches / max(words, 1), at most 1."""

    present = "present"
    share = "share"


@dataclass(frozen=True, kw_only=True)
class KeywordsScore(TextScore):
    """r(x, y) = sign * (1 if the regular expression occurs in the response else 0), or min(matches / words, 1).

    sign: -1 is for words that should not occur.
    """

    pattern: str = setting(help="A regular expression in Python's syntax.")
    measure: KeywordsMeasure = setting(KeywordsMeasure.present, "Whether it occurs, or its matches per word.")
    ignore_case: bool = setting(True, "Match upper and lower case alike.")
    unit = "share"
    raw_bounds = (0.0, 1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        error = pattern_error(self.pattern)
        require(not error, "pattern", repr(self.pattern), f"a regular expression ({error})")

    @cached_property
    def _compiled(self) -> "re.Pattern[str]":
        return re.compile(self.pattern, re.IGNORECASE if self.ignore_case else 0)

    def score_one(self, prompt: str, response: str) -> float:
        if self.measure == KeywordsMeasure.present:
            return float(self._compiled.search(response) is not None)
        return min(len(self._compiled.findall(response)) / max(len(response.split()), 1), 1.0)
