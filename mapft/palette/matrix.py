"""The score matrix: the scores of the base policy's samples, one column per human value.

Legend: N rows (samples), V human values, P prompts; row n belongs to prompt_ids[n]. All statistics are those of the
empirical distribution in which every row weighs 1/N, so a prompt weighs as often as it occurs in the data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mapft.palette import score_files
from mapft.utils.errors import UserError

ROUNDING = 64 * np.finfo(np.float64).eps  # a range of scores of at most ROUNDING * max|r| counts as constant
MAX_SCORE = 1e150  # absolute value; the variance of larger numbers overflows


@dataclass(frozen=True, eq=False)
class ScoreMatrix:
    """Scores r_i(x, y) of N samples y ~ p0(.|x) for V human values: the input of every palette computation.

    scores: (N, V) float64, raw scores in each value's own unit (read-only copy).
    values: V distinct names, the columns' order.
    prompt_ids: (N,) int64, equal for samples of one prompt; prompts may have different numbers of samples.

    Raises UserError for NaN or infinite scores (naming value and row), duplicate or empty names, lengths that do not
    match, and an empty matrix. Rows are counted from 0.
    """

    scores: NDArray[np.float64]
    values: tuple[str, ...]
    prompt_ids: NDArray[np.int64]

    def __init__(self, scores: ArrayLike, values: Sequence[str], prompt_ids: ArrayLike) -> None:
        names = _checked_names(values)
        scores_NV = _checked_scores(scores, names)
        ids_N = _checked_ids(prompt_ids, len(scores_NV))
        scores_NV.setflags(write=False)
        ids_N.setflags(write=False)
        object.__setattr__(self, "scores", scores_NV)
        object.__setattr__(self, "values", names)
        object.__setattr__(self, "prompt_ids", ids_N)

    def __len__(self) -> int:
        return len(self.scores)

    def __repr__(self) -> str:
        return f"ScoreMatrix({len(self)} samples of {len(self.groups.sizes)} prompts, values {', '.join(self.values)})"

    @cached_property
    def groups(self) -> Groups:
        """Which rows belong to which prompt."""
        return Groups.of(self.prompt_ids)

    @cached_property
    def base(self) -> dict[str, float]:
        """Base level of each value: E_{p0} r_i = mean over the N rows, in the value's own unit."""
        return dict(zip(self.values, self.mean_and_sd[0].tolist(), strict=True))

    @cached_property
    def sd(self) -> dict[str, float]:
        """Standard deviation of each value over the N rows (divisor N); exactly 0 for a constant value."""
        return dict(zip(self.values, self.mean_and_sd[1].tolist(), strict=True))

    @cached_property
    def mean_and_sd(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """`base` and `sd` as arrays (V,); a column that is constant up to rounding has sd exactly 0."""
        low_V, high_V = self.scores.min(axis=0), self.scores.max(axis=0)
        constant_V = high_V - low_V <= ROUNDING * np.maximum(high_V, -low_V)
        mean_V, sd_V = self.scores.mean(axis=0), self.scores.std(axis=0)
        return np.where(constant_V, high_V, mean_V), np.where(constant_V, 0.0, sd_V)

    def column(self, value: str) -> NDArray[np.float64]:
        """The N scores of one value."""
        return self.scores[:, self.index([value])[0]]

    def index(self, names: Sequence[str]) -> list[int]:
        """Column numbers of the named values; raises UserError with both sets of names when one is missing."""
        missing = [name for name in names if name not in self.values]
        if missing:
            raise UserError(
                f"the score matrix has no value {', '.join(missing)}: the palette names "
                f"{{{', '.join(names)}}}, the score matrix {{{', '.join(self.values)}}}; rename the value or score it."
            )
        return [self.values.index(name) for name in names]

    @classmethod
    def from_csv(cls, path: str | Path, *, ignore: Sequence[str] = ()) -> Self:
        """Read `prompt_id` and one column per value. Columns named in `ignore` are skipped; other text is an error."""
        return cls(*score_files.read_csv(Path(path), ignore))

    @classmethod
    def from_parquet(cls, path: str | Path, *, ignore: Sequence[str] = ()) -> Self:
        """Read `prompt_id` and one column per value. Columns named in `ignore` are skipped; other text is an error."""
        return cls(*score_files.read_parquet(Path(path), ignore))

    def to_csv(self, path: str | Path) -> None:
        """Write `prompt_id` and one column per value, exactly (shortest round-trip digits) and atomically."""
        score_files.write_csv(Path(path), self.scores, self.values, self.prompt_ids)

    def to_parquet(self, path: str | Path) -> None:
        """Write `prompt_id` and one column per value, exactly and atomically."""
        score_files.write_parquet(Path(path), self.scores, self.values, self.prompt_ids)


@dataclass(frozen=True, eq=False)
class Groups:
    """Rows by prompt: prompt p owns the rows order[starts[p] : starts[p] + sizes[p]]."""

    order: NDArray[np.intp]
    starts: NDArray[np.intp]
    sizes: NDArray[np.intp]

    @classmethod
    def of(cls, prompt_ids: NDArray[np.int64]) -> Groups:
        """Groups of the rows (N,) by their prompt's id, in the order of the ids."""
        _, starts, sizes = np.unique(np.sort(prompt_ids), return_index=True, return_counts=True)
        return cls(np.argsort(prompt_ids, kind="stable"), starts, sizes)


def _checked_names(values: Sequence[str]) -> tuple[str, ...]:
    names = (values,) if isinstance(values, str) else tuple(values)
    if not names:
        raise UserError("the score matrix names no value: give one name per column of scores.")
    invalid = [name for name in names if not isinstance(name, str) or not name.strip() or name == score_files.PROMPT_ID]
    if invalid:
        raise UserError(
            f"{invalid[0]!r} cannot name a value: names are non-empty strings other than {score_files.PROMPT_ID!r}."
        )
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise UserError(f"the value name {', '.join(repeated)} occurs more than once: give every column its own name.")
    return names


def _checked_scores(scores: ArrayLike, names: tuple[str, ...]) -> NDArray[np.float64]:
    try:
        scores_NV = np.array(scores, dtype=np.float64, order="C")
    except (TypeError, ValueError) as error:
        raise UserError(f"scores must be a table of numbers, one row per sample: {error}.") from error
    if scores_NV.ndim != 2 or scores_NV.shape[1] != len(names):
        raise UserError(
            f"scores have shape {scores_NV.shape} but {len(names)} value(s) are named ({', '.join(names)}): "
            f"give shape (N, {len(names)}), one column per value."
        )
    if not len(scores_NV):
        raise UserError("the score matrix is empty: score at least one sample.")
    _check_finite(scores_NV, names)
    if np.abs(scores_NV).max() > MAX_SCORE:
        row, column = np.unravel_index(np.abs(scores_NV).argmax(), scores_NV.shape)
        raise UserError(
            f"the score of value {names[column]!r} in row {row} (counted from 0) is {scores_NV[row, column]:g}, but "
            f"the variance of numbers above {MAX_SCORE:g} overflows: use a larger unit for this value."
        )
    return scores_NV


def _check_finite(scores_NV: NDArray[np.float64], names: tuple[str, ...]) -> None:
    invalid_NV = ~np.isfinite(scores_NV)
    if invalid_NV.any():
        row, column = np.argwhere(invalid_NV)[0]
        raise UserError(
            f"the score of value {names[column]!r} in row {row} (counted from 0) is {scores_NV[row, column]}, one of "
            f"{int(invalid_NV.sum())} score(s) that are not finite; score it again, as missing scores are not replaced."
        )


def _checked_ids(prompt_ids: ArrayLike, rows: int) -> NDArray[np.int64]:
    ids_N = np.asarray(prompt_ids)
    if ids_N.shape != (rows,):
        raise UserError(f"prompt_ids have shape {ids_N.shape} but there are {rows} rows: give one prompt id per row.")
    if not np.issubdtype(ids_N.dtype, np.integer):
        raise UserError(f"prompt_ids are of type {ids_N.dtype}: number the prompts with integers.")
    return ids_N.astype(np.int64)
