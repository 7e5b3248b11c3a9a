"""Rows of a file or a dataset of prompts, read one after another: a file may be larger than the memory."""

import csv
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mapft.config import DataConfig
from mapft.playground.paths import resolve
from mapft.utils.errors import UserError

LONGEST_FIELD = 2**31 - 1  # characters in a field of a csv file
BATCH = 1000  # rows of a parquet file that are in memory
FILE_ENDINGS = (".jsonl", ".csv", ".parquet")
Row = dict[str, Any]


@dataclass(frozen=True)
class PromptFile:
    """`read` yields the rows from the first one, with a UserError for an invalid one; `columns` lists their keys."""

    read: Callable[[], Iterator[Row]]
    columns: Callable[[], list[str]]


def open_prompts(data: DataConfig, option: str) -> PromptFile:
    """data.path as rows. option: name of the setting that data.path comes from, for messages."""
    path = Path(resolve(data.path)).expanduser()
    if not path.is_file():
        rows = _dataset(str(path), data, option)
        return PromptFile(lambda: iter(rows), lambda: list(rows.column_names))
    if path.suffix not in FILE_ENDINGS:
        raise UserError(f"{option}={data.path} ends in {path.suffix!r}; use a .jsonl, .csv or .parquet file.")
    if path.suffix == ".jsonl":
        return PromptFile(lambda: _json_rows(path, data), lambda: _keys(_json_rows(path, data)))
    if path.suffix == ".csv":
        return PromptFile(lambda: _csv_rows(path, data.path), lambda: _csv_header(path, data.path))
    return PromptFile(lambda: _parquet_rows(path, data), lambda: _parquet_columns(path, data))


def _keys(rows: Iterator[Row]) -> list[str]:
    """Of all rows, in the order in which they appear."""
    keys: dict[str, None] = {}
    for row in rows:
        if not row.keys() <= keys.keys():
            keys |= dict.fromkeys(row)
    return list(keys)


def _json_rows(path: Path, data: DataConfig) -> Iterator[Row]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield _json_row(line, number, data)


def _json_row(line: bytes, number: int, data: DataConfig) -> Row:
    try:
        row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
    except UnicodeDecodeError as error:
        raise UserError(f"Line {number} of {data.path} is not UTF-8 ({error}); save the file as UTF-8.") from error
    except json.JSONDecodeError as error:
        raise UserError(f"Line {number} of {data.path} is not JSON ({error}); write one object per line.") from error
    if not isinstance(row, dict):
        raise UserError(f"Line {number} of {data.path} is a {type(row).__name__}; write one JSON object per line.")
    return row


def _parquet_rows(path: Path, data: DataConfig) -> Iterator[Row]:
    from pyarrow import parquet

    with _readable(data):
        for batch in parquet.ParquetFile(path).iter_batches(batch_size=BATCH):
            yield from batch.to_pylist()  # pandas would make 3.0 of a 3 beside a null


def _parquet_columns(path: Path, data: DataConfig) -> list[str]:
    from pyarrow import parquet

    with _readable(data):
        return list(parquet.read_schema(path).names)


@contextmanager
def _readable(data: DataConfig) -> Iterator[None]:
    try:
        yield
    except (ValueError, OSError) as error:
        raise UserError(f"{data.path} cannot be read as parquet: {error}") from error


def _csv_rows(path: Path, name: str) -> Iterator[Row]:
    """The rows of a csv file, whose lines have as many fields as its header; blank lines are skipped.

    pandas would take the fields of a text with commas that is not quoted as an index, and leave them out.
    """
    with _csv_lines(path, name) as lines:
        header = _valid_header(next(lines, []), name)
        for fields in filter(None, lines):
            if len(fields) != len(header):
                raise UserError(
                    f"Line {lines.line_num} of {name} has {len(fields)} fields and its header {len(header)}; put "
                    'texts that have commas, quotes or line breaks between "...".'
                )
            yield dict(zip(header, fields, strict=True))


def _csv_header(path: Path, name: str) -> list[str]:
    with _csv_lines(path, name) as lines:
        return _valid_header(next(lines, []), name)


@contextmanager
def _csv_lines(path: Path, name: str) -> Iterator[Any]:
    csv.field_size_limit(LONGEST_FIELD)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield csv.reader(file, strict=True)
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{name} cannot be read as csv in UTF-8: {error}.") from error


def _valid_header(header: list[str], name: str) -> list[str]:
    if repeated := [column for column in header if header.count(column) > 1]:
        raise UserError(f"{name} has more than one column {repeated[0]!r}; give every column its own name.")
    return header


def _dataset(path: str, data: DataConfig, option: str) -> Any:
    """A dataset in a folder or on the Hub."""
    if (path.startswith(("/", ".", "~")) and not Path(path).is_dir()) or Path(path).suffix in FILE_ENDINGS:
        raise UserError(
            f"{option}={data.path} does not exist; give a .jsonl, .csv or .parquet file of prompts, or a dataset."
        )
    from datasets import load_dataset

    for table in sorted(Path(path).rglob("*.csv")):  # pandas, with which datasets reads them, would guess
        for _ in _csv_rows(table, str(table)):
            pass
    try:
        return load_dataset(path, data_dir=data.subset, split=data.split)
    except Exception as error:  # datasets raises its own errors, the Hub's, and ValueError
        raise UserError(f"{option}={data.path} cannot be loaded as a dataset: {error}") from error
