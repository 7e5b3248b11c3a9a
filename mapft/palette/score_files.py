"""Score matrices on disk: a csv or parquet table with the column `prompt_id` and one column per human value.

A round trip preserves every bit of a float. Files are written atomically. pyarrow and mapft.utils.files (pandas) are
imported inside the functions that need them, so that importing mapft.palette stays fast.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mapft.utils.errors import UserError

PROMPT_ID = "prompt_id"
Columns = tuple[NDArray[np.float64], list[str], NDArray[np.int64]]


def read_csv(path: Path, ignore: Sequence[str]) -> Columns:
    """Scores (N, V), value names and prompt ids of a csv file; an empty cell reads as nan."""
    _check_exists(path)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            header, *rows = [*csv.reader(file)] or [[]]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is not a csv file in UTF-8 ({error}): save it in that format.") from error
    uneven = next((number for number, row in enumerate(rows) if len(row) != len(header)), None)
    if uneven is not None:
        raise UserError(
            f"row {uneven} (counted from 0) of {path} has {len(rows[uneven])} cells but the header has {len(header)}: "
            "correct that line."
        )
    values = _value_names(header, path, ignore)
    cells = dict(zip(header, zip(*rows, strict=True) if rows else [()] * len(header), strict=True))
    scores = [_numbers([cell or "nan" for cell in cells[name]], np.float64, name, path) for name in values]
    return _stacked(scores, len(rows)), values, _numbers(cells[PROMPT_ID], np.int64, PROMPT_ID, path)


def read_parquet(path: Path, ignore: Sequence[str]) -> Columns:
    """Scores (N, V), value names and prompt ids of a parquet file; a null reads as nan."""
    import pyarrow as pa
    from pyarrow import parquet

    _check_exists(path)
    try:
        table = parquet.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path} is not a readable parquet file ({error}): write it again.") from error
    values = _value_names(table.column_names, path, ignore)
    types = pa.types
    for name in (PROMPT_ID, *values):
        column, required = table.column(name), "integers" if name == PROMPT_ID else "numbers"
        numeric = types.is_integer(column.type) or (name != PROMPT_ID and types.is_floating(column.type))
        if not numeric or (name == PROMPT_ID and column.null_count):
            nulls = f" with {column.null_count} nulls" if column.null_count else ""
            raise UserError(
                f"column {name!r} of {path} has type {column.type}{nulls} but must hold {required}: correct it, or "
                "name a column that is not a score in `ignore`."
            )
    scores = [_numbers(table.column(name).to_numpy(), np.float64, name, path) for name in values]
    return _stacked(scores, len(table)), values, _numbers(table.column(PROMPT_ID).to_numpy(), np.int64, PROMPT_ID, path)


def write_csv(path: Path, scores_NV: NDArray[np.float64], values: Sequence[str], ids_N: NDArray[np.int64]) -> None:
    """Write the table as csv with the shortest digits that read back exactly, atomically."""
    from mapft.utils.files import write_atomically

    def write(temporary: Path) -> None:
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow([PROMPT_ID, *values])
            writer.writerows([prompt, *row] for prompt, row in zip(ids_N.tolist(), scores_NV.tolist(), strict=True))

    write_atomically(path, write)


def write_parquet(path: Path, scores_NV: NDArray[np.float64], values: Sequence[str], ids_N: NDArray[np.int64]) -> None:
    """Write the table as parquet, atomically."""
    import pyarrow as pa
    from pyarrow import parquet

    from mapft.utils.files import write_atomically

    columns: Mapping[str, Any] = {PROMPT_ID: ids_N, **dict(zip(values, scores_NV.T, strict=True))}
    table = pa.table({name: pa.array(np.ascontiguousarray(column)) for name, column in columns.items()})
    write_atomically(path, lambda temporary: parquet.write_table(table, temporary))


def _check_exists(path: Path) -> None:
    if not path.is_file():
        raise UserError(f"the score matrix {path} is missing: check the path, or score the base samples first.")


def _value_names(header: Sequence[str], path: Path, ignore: Sequence[str]) -> list[str]:
    columns = ", ".join(header) or "no columns"
    repeated = sorted({name for name in header if list(header).count(name) > 1})
    if repeated:
        raise UserError(f"{path} has more than one column named {', '.join(repeated)}: give every column its own name.")
    unknown = [name for name in ignore if name not in header]
    if unknown:
        raise UserError(f"{path} has no column {', '.join(unknown)} to ignore, only {columns}: correct the name.")
    if PROMPT_ID not in header:
        raise UserError(f"{path} has no column {PROMPT_ID}, only {columns}: add the number of each row's prompt.")
    return [name for name in header if name != PROMPT_ID and name not in ignore]


def _numbers(cells: ArrayLike, kind: type[np.generic], name: str, path: Path) -> NDArray[Any]:
    try:
        return np.array(cells, dtype=kind)
    except (TypeError, ValueError, OverflowError) as error:
        required = "integers" if kind is np.int64 else "numbers (name a column that is not a score in `ignore`)"
        raise UserError(f"column {name!r} of {path} must hold {required}: {error}.") from error


def _stacked(scores: list[NDArray[Any]], rows: int) -> NDArray[np.float64]:
    return np.column_stack(scores) if scores else np.empty((rows, 0))
