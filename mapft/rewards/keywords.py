"""Whether, or how densely, a pattern occurs in a response."""

import re
from dataclasses import dataclass
from functools import cached_property

from mapft.errors import UserError
from mapft.rewards.plain import PlainScore

MEASURES = ("present", "share")


@dataclass(frozen=True)
class KeywordsScore(PlainScore):
    """r(x, y) = sign * (1 if the regular expression occurs in the response else 0), or its share of the words.

    measure: present | share = matches / max(words, 1), at most 1. sign: -1 is for words
    that should not occur.
    """

    pattern: str
    measure: str = "present"
    ignore_case: bool = True
    sign: float = 1.0
    unit = "share"

    def __post_init__(self) -> None:
        if self.measure not in MEASURES:
            raise UserError(f"measure={self.measure} is unknown for keywords; use one of {', '.join(MEASURES)}.")
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise UserError(f"pattern={self.pattern!r} is no regular expression: {error}.") from error

    @property
    def bounds(self) -> tuple[float, float]:
        return (0.0, self.sign) if self.sign > 0 else (self.sign, 0.0)

    @cached_property
    def _pattern(self) -> "re.Pattern[str]":
        return re.compile(self.pattern, re.IGNORECASE if self.ignore_case else 0)

    def one(self, prompt: str, response: str) -> float:
        if self.measure == "present":
            return float(self._pattern.search(response) is not None)
        return min(len(self._pattern.findall(response)) / max(len(response.split()), 1), 1.0)
