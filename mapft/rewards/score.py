"""What every kind of score has in common.

Columns: of the data, by name, with one value per response, as TRL passes them to reward functions. Values are what JSON
has: texts, numbers, booleans, null, lists and objects.

Legend: N responses.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np

from mapft.config.fields import check_ranges, require, require_file_name, setting
from mapft.utils.errors import UserError

Columns = Mapping[str, Sequence[Any]]
NO_COLUMNS: Columns = MappingProxyType({})
OWN_ARGUMENTS = ("prompts", "completions")  # of reward functions, so no column can have these names


OWN_COLUMNS = (
    *("prompt_id", "prompt", "response", "completion", "tokens", "finished", "prompt_token_ids", "response_token_ids"),
    *("kl", "tilt", "candidates", "accepted", "ess", "engine_log_ratio"),
)  # of tables of responses, which also have a column for each value


class Scorer(Protocol):
    """A loaded score: raw scores of responses, higher is better, one finite number per response."""

    def score(self, prompts: Sequence[str], responses: Sequence[str], columns: Columns = NO_COLUMNS) -> np.ndarray:
        """(N,) float64, in the score's own unit, after its sign. columns: those of `Score.reads`."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes of its weights; 0 without a model."""
        ...

    def to_device(self) -> None:
        """Move the weights to the device of this process."""
        ...

    def to_host(self) -> None:
        """Move the weights to host memory."""
        ...


class WithoutWeights:
    """The part of a Scorer that concerns weights, for a scorer that has none in this process."""

    nbytes = 0

    def to_device(self) -> None:
        """There is nothing to move."""

    def to_host(self) -> None:
        """There is nothing to move."""


@dataclass(frozen=True, kw_only=True)
class Score(ABC):
    """r(x, y), the score of response y to prompt x; after its sign, higher is better.

    A subclass holds the settings of one kind. The pilot, training and evaluation use the same settings.
    UserError for a value out of range; its message begins with the name of the setting.
    """

    sign: float = setting(1.0, "Factor of the score; -1 for a score where lower is better.")

    def __post_init__(self) -> None:
        check_ranges(self, "")
        require(self.sign != 0, "sign", self.sign, "a factor other than 0, for example 1 or -1")

    @property
    @abstractmethod
    def unit(self) -> str:
        """Unit of the raw score. Relative targets exist for "probability" and for units that begin with "nats"."""

    @property
    def raw_bounds(self) -> tuple[float, float]:
        """Lowest and highest value before the sign; infinite where there is no bound."""
        return -inf, inf

    @property
    def bounds(self) -> tuple[float, float]:
        """Lowest and highest score, after the sign."""
        low, high = sorted(self.sign * bound + 0.0 for bound in self.raw_bounds)  # + 0.0 turns -0.0 into 0.0
        return low, high

    @abstractmethod
    def load(self, name: str) -> Scorer:
        """The scorer of value `name`; models on the device of this process."""

    def reads(self, available: Collection[str]) -> list[str]:
        """Names of the columns that the score needs, and of those available that it can use."""
        return []

    def row_error(self, row: Mapping[str, Any]) -> str:
        """Why the score cannot use its columns of one row of the data; empty where it can."""
        return ""

    @property
    def stored_rows(self) -> int:
        """Responses whose scores are stored at a time, so that interrupted scoring continues after them."""
        return 1024

    def order(self, prompts: Sequence[str], responses: Sequence[str]) -> Sequence[int]:
        """Numbers of the responses in the order in which they are scored."""
        return range(len(responses))

    def files(self) -> list[str]:
        """Paths that the scores depend on besides the settings: when they change, texts are scored again."""
        return []

    def estimated_nbytes(self) -> int:
        """Bytes that its weights will take, known without loading them."""
        return 0


@dataclass(frozen=True, kw_only=True)
class DeclaredScore(Score):
    """A score computed by code that is not part of this package: the user declares its unit, bounds and columns."""

    unit: str = setting("score", "Unit of the score before its sign; a probability and nats allow relative targets.")
    low: float | None = setting(None, "Lowest value before the sign.", null="leave it unbounded")
    high: float | None = setting(None, "Highest value before the sign.", null="leave it unbounded")
    columns: tuple[str, ...] = setting(
        (), "Columns of the data that the score is given; a function also gets those that its parameters name."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        taken = [name for name in self.columns if name in OWN_ARGUMENTS]
        require(not taken, "columns", list(self.columns), f"other names than {' and '.join(OWN_ARGUMENTS)}")

    @property
    def raw_bounds(self) -> tuple[float, float]:
        return -inf if self.low is None else self.low, inf if self.high is None else self.high

    def reads(self, available: Collection[str]) -> list[str]:
        return list(self.columns)


def check_names(values: Collection[str]) -> None:
    """UserError for a value whose column or file would have the name of another one."""
    for name in values:
        require_file_name("rewards", name)
        if name in OWN_COLUMNS:
            raise UserError(
                f"rewards.{name} cannot have this name, because tables of responses have a column {name}; rename it."
            )


def columns_read(name: str, score: Score, available: Collection[str]) -> list[str]:
    """Names of the columns that value `name` reads; UserError for one that is not available."""
    try:
        names = score.reads(available)
    except UserError as error:
        raise UserError(f"rewards.{name}.{error}") from error
    for column in names:
        if column not in available:
            raise UserError(
                f"rewards.{name} reads the column {column!r}, which the data does not have (it has "
                f"{', '.join(available) or 'none'}); correct the name, or add the column."
            )
    return names


def own_columns(name: str, score: Score, columns: Columns) -> dict[str, Sequence[Any]]:
    """Those of the columns that value `name` reads; UserError for one that is missing."""
    return {column: columns[column] for column in columns_read(name, score, columns)}


def check_template(name: str, template: str) -> None:
    """UserError for a template with other fields than {prompt} and {response}. name: of the setting."""
    try:
        template.format(prompt="", response="")
    except (KeyError, IndexError, ValueError, AttributeError, TypeError) as error:
        raise UserError(
            f"{name}={template!r} is not a valid template ({error}); its fields are {{prompt}} and {{response}}."
        ) from error
