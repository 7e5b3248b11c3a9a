"""Score matrices on disk: a csv or parquet table with the column `prompt_id` and one column per human value.

Floats survive a round trip to the last bit. Writers put the table in a temporary file beside the target and rename it,
so a reader never sees half a table. pyarrow is imported inside the parquet functions only.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mapft.errors import UserError

PROMPT_ID = "prompt_id"
Columns = tuple[NDArray[np.float64], list[str], NDArray[np.int64]]


def read_csv(path: Path, ignore: Sequence[str]) -> Columns:
    """Scores (N, V), value names and prompt ids of a csv file; an empty cell reads as nan."""
    _refuse_missing(path)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            header, *rows = [*csv.reader(file)] or [[]]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is not a csv file in UTF-8 ({error}): save it as one.") from error
    uneven = next((number for number, row in enumerate(rows) if len(row) != len(header)), None)
    if uneven is not None:
        raise UserError(
            f"row {uneven} (counted from 0) of {path} has {len(rows[uneven])} cells but the header has {len(header)}: "
            "mend that line."
        )
    values = _value_names(header, path, ignore)
    cells = dict(zip(header, zip(*rows, strict=True) if rows else [()] * len(header), strict=True))
    scores = [_numbers([cell or "nan" for cell in cells[name]], np.float64, name, path) for name in values]
    return _stacked(scores, len(rows)), values, _numbers(cells[PROMPT_ID], np.int64, PROMPT_ID, path)


def read_parquet(path: Path, ignore: Sequence[str]) -> Columns:
    """Scores (N, V), value names and prompt ids of a parquet file; a null reads as nan."""
    import pyarrow as pa
    from pyarrow import parquet

    _refuse_missing(path)
    try:
        table = parquet.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path} is not a parquet file that can be read ({error}).") from error
    values = _value_names(table.column_names, path, ignore)
    types = pa.types
    for name in (PROMPT_ID, *values):
        column, wanted = table.column(name), "integers" if name == PROMPT_ID else "numbers"
        right = types.is_integer(column.type) or (name != PROMPT_ID and types.is_floating(column.type))
        if not right or (name == PROMPT_ID and column.null_count):
            nulls = f" with {column.null_count} nulls" if column.null_count else ""
            raise UserError(
                f"column {name!r} of {path} holds {column.type}{nulls} and must hold {wanted}; if it is no score, "
                "name it in `ignore`."
            )
    scores = [_numbers(table.column(name).to_numpy(), np.float64, name, path) for name in values]
    return _stacked(scores, len(table)), values, _numbers(table.column(PROMPT_ID).to_numpy(), np.int64, PROMPT_ID, path)


def write_csv(path: Path, scores_NV: NDArray[np.float64], values: Sequence[str], ids_N: NDArray[np.int64]) -> None:
    """Write the table as csv with the shortest digits that read back exactly, atomically."""

    def write(temporary: Path) -> None:
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow([PROMPT_ID, *values])
            writer.writerows([prompt, *row] for prompt, row in zip(ids_N.tolist(), scores_NV.tolist(), strict=True))

    _write_atomically(path, write)


def write_parquet(path: Path, scores_NV: NDArray[np.float64], values: Sequence[str], ids_N: NDArray[np.int64]) -> None:
    """Write the table as parquet, atomically."""
    import pyarrow as pa
    from pyarrow import parquet

    columns: Mapping[str, Any] = {PROMPT_ID: ids_N, **dict(zip(values, scores_NV.T, strict=True))}
    table = pa.table({name: pa.array(np.ascontiguousarray(column)) for name, column in columns.items()})
    _write_atomically(path, lambda temporary: parquet.write_table(table, temporary))


def _refuse_missing(path: Path) -> None:
    if not path.is_file():
        raise UserError(f"there is no score matrix at {path}: check the path or score the base samples first.")


def _value_names(header: Sequence[str], path: Path, ignore: Sequence[str]) -> list[str]:
    present = ", ".join(header) or "no columns"
    twice = sorted({name for name in header if list(header).count(name) > 1})
    if twice:
        raise UserError(f"{path} has more than one column named {', '.join(twice)}: give every column its own name.")
    unknown = [name for name in ignore if name not in header]
    if unknown:
        raise UserError(f"{path} has no column {', '.join(unknown)} to ignore: it has {present}.")
    if PROMPT_ID not in header:
        raise UserError(f"{path} has no column {PROMPT_ID}, only {present}: add the number of each row's prompt.")
    return [name for name in header if name != PROMPT_ID and name not in ignore]


def _numbers(cells: ArrayLike, kind: type[np.generic], name: str, path: Path) -> NDArray[Any]:
    try:
        return np.array(cells, dtype=kind)
    except (TypeError, ValueError, OverflowError) as error:
        wanted = "integers" if kind is np.int64 else "numbers; if it is no score, name it in `ignore`"
        raise UserError(f"column {name!r} of {path} must hold {wanted}: {error}.") from error


def _stacked(scores: list[NDArray[Any]], rows: int) -> NDArray[np.float64]:
    return np.column_stack(scores) if scores else np.empty((rows, 0))


def _write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.mapft-tmp")
    try:
        write(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
