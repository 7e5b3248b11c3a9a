"""Whether a response reaches the right answer of its row of the data."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from functools import cached_property
from typing import Any

import numpy as np

from mapft.config.fields import pattern_error, require, setting
from mapft.rewards.score import NO_COLUMNS, OWN_ARGUMENTS, Columns, Score, WithoutWeights
from mapft.utils.errors import UserError

NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?|(?<!\w)[-+]?\.\d+")


class How(StrEnum):
    """The response is the answer, contains it, has the same last number, or the answer is a pattern that it matches."""

    exact = "exact"
    contains = "contains"
    number = "number"
    regex = "regex"


@dataclass(frozen=True, kw_only=True)
class MatchScore(Score, WithoutWeights):
    """r(x, y) = sign * (1 if y matches the answer in the row's `column`, or one of a list of answers, else 0).

    exact: they are the same, white space at both ends aside. contains: the answer occurs in y. number: the last numbers
    of y and of the answer are equal; 1,200.0 is 1200. regex: the answer, a regular expression, occurs in y. With
    `extract`, what it finds last in y is compared, and a response in which it finds nothing scores 0.
    """

    column: str = setting(help="Column of the data with the right answer: a text, a number, or a list of these.")
    how: How = setting(How.exact, "What counts as a match.")
    extract: str | None = setting(
        None, "A regular expression that finds the answer in the response: its first group, or all of it; null: all."
    )
    ignore_case: bool = setting(False, "Match upper and lower case alike.")
    unit = "probability"
    raw_bounds = (0.0, 1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.column not in OWN_ARGUMENTS, "column", self.column, "another name")
        error = pattern_error(self.extract or "")
        require(not error, "extract", repr(self.extract), f"a regular expression ({error})")

    def load(self, name: str) -> "MatchScore":
        return self

    def reads(self, available: Collection[str]) -> list[str]:
        return [self.column]

    def row_error(self, row: Mapping[str, Any]) -> str:
        """Why the row has no answer that can match."""
        answers = _answers(row[self.column])
        shown = f"its {self.column} is {repr(row[self.column])[:80]}"
        if not answers or not all(isinstance(answer, str | int | float) for answer in answers):
            return f"{shown}; it must be a text, a number, or a list of these"
        for answer in map(_text, answers):
            if self.how == How.number and _last_number(answer) is None:
                return f"{shown}, which has no number"
            if self.how == How.contains and not answer.strip():
                return f"{shown}, which every response contains"
            if self.how == How.regex and (error := pattern_error(answer)):
                return f"{shown}, which is not a regular expression ({error})"
        return ""

    def score(self, prompts: Sequence[str], responses: Sequence[str], columns: Columns = NO_COLUMNS) -> np.ndarray:
        """(N,) float64."""
        rows = list(zip(responses, columns[self.column], strict=True))
        for _, value in rows:
            if error := self.row_error({self.column: value}):
                raise UserError(f"A response cannot be scored: {error}.")
        return self.sign * np.array([float(self._matches(response, _answers(value))) for response, value in rows])

    def _matches(self, response: str, answers: Sequence[Any]) -> bool:
        if self._extract:
            found = list(self._extract.finditer(response))
            if not found:
                return False
            response = found[-1][min(1, self._extract.groups)] or ""
        return any(self._is(response, _text(answer)) for answer in answers)

    def _is(self, response: str, answer: str) -> bool:
        if self.how == How.number:
            number = _last_number(response)
            return number is not None and number == _last_number(answer)
        if self.how == How.regex:
            return re.search(answer, response, self._flags) is not None
        response, answer = (
            text.strip().casefold() if self.ignore_case else text.strip() for text in (response, answer)
        )
        return response == answer if self.how == How.exact else answer in response

    @property
    def _flags(self) -> int:
        return re.IGNORECASE if self.ignore_case else 0

    @cached_property
    def _extract(self) -> "re.Pattern[str] | None":
        return None if self.extract is None else re.compile(self.extract, self._flags)


def _answers(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else [value]


def _text(answer: Any) -> str:
    """As JSON has it: true, not True."""
    return str(answer).lower() if isinstance(answer, bool) else str(answer)


def _last_number(text: str) -> Decimal | None:
    numbers = NUMBER.findall(text)
    try:
        return Decimal(numbers[-1].replace(",", "")) if numbers else None
    except InvalidOperation:
        return None
