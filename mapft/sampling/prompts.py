"""Prompts, and the columns of their rows that scores read, from a file or a dataset."""

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mapft.config import DataConfig, Extract
from mapft.playground.paths import resolve
from mapft.rewards.score import Score, columns_read
from mapft.utils.errors import UserError
from mapft.utils.text import encodable, text_of

LONGEST_FIELD = 2**31 - 1  # characters in a field of a csv file
FILE_ENDINGS = (".jsonl", ".csv", ".parquet")
Prompt = str | list[dict[str, str]]


@dataclass(frozen=True)
class PromptRow:
    """A prompt with the columns of its row that scores read, as JSON has them.

    ids: its tokens, once `tokens.render` has made them. Every stage uses them: rendered again, the prompt can differ (a
    chat template with the date, messages that went through Arrow).
    """

    prompt: Prompt
    columns: dict[str, Any] = field(default_factory=dict)
    ids: list[int] = field(default_factory=list)


def longest_prompt(rows: Sequence[PromptRow]) -> int:
    """Tokens of the longest of these rendered prompts."""
    return max(len(row.ids) for row in rows)


def columns_of(rows: Sequence[PromptRow]) -> dict[str, list[Any]]:
    """The columns as scores receive them: by name, one value per row."""
    return {name: [row.columns[name] for row in rows] for name in (rows[0].columns if rows else ())}


def load_prompts(
    data: DataConfig,
    scores: Mapping[str, Score] = MappingProxyType({}),
    at_least: int = 2,
    option: str = "data.path",
    report: Callable[[str], None] = lambda sentence: None,
) -> list[PromptRow]:
    """The distinct rows, in their order: prompts (texts, or lists of messages) with the columns that the scores read.

    Rows with the same prompt and other values in those columns are different. A row without a column has null there.
    UserError for the first invalid row, for a column that a score reads and no row has, and for fewer than `at_least`
    rows. option: name of the setting that data.path comes from. report: receives a sentence about rows that are not
    used.
    """
    path = Path(resolve(data.path)).expanduser()
    if path.is_file():
        rows: Any = _read(path, data, option)
        available = list(dict.fromkeys(key for row in rows for key in row))
    else:
        rows = _read_dataset(str(path), data, option)
        available = rows.column_names
    read = {name: columns_read(name, score, available) for name, score in scores.items()} if len(rows) else {}
    columns = sorted({column for names in read.values() for column in names})
    prompts: dict[str, PromptRow] = {}
    skipped = repeated = 0
    for number, row in enumerate(rows, 1):
        if data.column not in row:
            raise UserError(
                f"Row {number} of {data.path} has no column {data.column!r} (it has {', '.join(map(str, row))}); "
                "set data.column to the column of the prompts."
            )
        prompt = extract_prompt(_validated(row[data.column], number, data), data.extract)
        if prompt is None:
            skipped += 1
            continue
        prompt_row = PromptRow(prompt, {name: _plain(row.get(name), name, number, data) for name in columns})
        _check_row(prompt_row, scores, read, number, data)
        key = json.dumps([prompt, prompt_row.columns])
        repeated += key in prompts
        prompts.setdefault(key, prompt_row)
    if skipped:
        report(f"{skipped} of {len(rows)} rows of {data.path} have no prompt with data.extract={data.extract}.")
    if repeated:
        report(f"{repeated} of {len(rows)} rows of {data.path} repeat an earlier one and are left out.")
    if data.as_chat:
        prompts = {key: PromptRow(_as_chat(row.prompt), row.columns) for key, row in prompts.items()}
    if len({isinstance(row.prompt, str) for row in prompts.values()}) > 1:
        raise UserError(f"{data.path} mixes texts and lists of messages; use one of the two in a file.")
    distinct = len({json.dumps(row.prompt) for row in prompts.values()})
    if distinct < at_least:
        purpose = ", one for training and one for evaluation" if at_least == 2 else ""
        raise UserError(f"{data.path} has {distinct} distinct prompts; give at least {at_least}{purpose}.")
    return list(prompts.values())


def extract_prompt(prompt: Prompt, extract: Extract) -> Prompt | None:
    """The part of a text that is the prompt; None for a text without it."""
    if extract is Extract.whole or not isinstance(prompt, str):
        return prompt
    if extract is Extract.first_question:
        question = prompt.partition("Human:")[2].partition("Assistant:")[0].strip()
        return question or None
    length = 20 + blake2b(prompt.encode("utf-8", "replace"), digest_size=1).digest()[0] % 11
    return prompt[:length] if len(prompt) > 30 else None


def _plain(value: Any, name: str, number: int, data: DataConfig) -> Any:
    """The value as JSON has it; UserError for one that JSON lacks."""
    try:
        return json.loads(encodable(json.dumps(value, ensure_ascii=False, allow_nan=False)))
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(
            f"The column {name!r} in row {number} of {data.path} is {value!r}, which JSON does not have; write a text, "
            "a number, a boolean, null, or a list of these."
        ) from error


def _check_row(
    row: PromptRow,
    scores: Mapping[str, Score],
    read: Mapping[str, Sequence[str]],
    number: int,
    data: DataConfig,
) -> None:
    for name, columns in read.items():
        if error := scores[name].row_error({column: row.columns[column] for column in columns}):
            raise UserError(f"Row {number} of {data.path} cannot be scored by rewards.{name}: {error}.")


def _as_chat(prompt: Prompt) -> Prompt:
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt


def _read_dataset(path: str, data: DataConfig, option: str) -> Any:
    """A dataset in a folder or on the Hub."""
    if (path.startswith(("/", ".", "~")) and not Path(path).is_dir()) or Path(path).suffix in FILE_ENDINGS:
        raise UserError(
            f"{option}={data.path} does not exist; give a .jsonl, .csv or .parquet file of prompts, or a dataset."
        )
    from datasets import load_dataset

    for table in sorted(Path(path).rglob("*.csv")):  # pandas, with which datasets reads them, would guess
        _csv_rows(table, str(table))
    try:
        return load_dataset(path, data_dir=data.subset, split=data.split)
    except Exception as error:  # datasets raises its own errors, the Hub's, and ValueError
        raise UserError(f"{option}={data.path} cannot be loaded as a dataset: {error}") from error


def _read(path: Path, data: DataConfig, option: str) -> list[dict[str, Any]]:
    if path.suffix == ".jsonl":
        try:
            lines = path.read_text("utf-8-sig").split("\n")
        except UnicodeDecodeError as error:
            raise UserError(f"{data.path} is not UTF-8 ({error}); save it as UTF-8.") from error
        return [_json_row(line, n, data) for n, line in enumerate(lines, 1) if line.strip()]
    if path.suffix == ".csv":
        return _csv_rows(path, data.path)
    if path.suffix == ".parquet":
        from pyarrow import parquet

        try:
            return parquet.ParquetFile(path).read().to_pylist()  # pandas would make 3.0 of a 3 beside a null
        except (ValueError, OSError) as error:
            raise UserError(f"{data.path} cannot be read as parquet: {error}") from error
    raise UserError(f"{option}={data.path} ends in {path.suffix!r}; use a .jsonl, .csv or .parquet file.")


def _csv_rows(path: Path, name: str) -> list[dict[str, Any]]:
    """The rows of a csv file, whose lines have as many fields as its header; blank lines are skipped.

    pandas would take the fields of a text with commas that is not quoted as an index, and leave them out.
    """
    csv.field_size_limit(LONGEST_FIELD)
    rows: list[dict[str, Any]] = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = next(reader, [])
            if repeated := [column for column in header if header.count(column) > 1]:
                raise UserError(f"{name} has more than one column {repeated[0]!r}; give every column its own name.")
            for fields in filter(None, reader):
                if len(fields) != len(header):
                    raise UserError(
                        f"Line {reader.line_num} of {name} has {len(fields)} fields and its header {len(header)}; put "
                        'texts that have commas, quotes or line breaks between "...".'
                    )
                rows.append(dict(zip(header, fields, strict=True)))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{name} cannot be read as csv in UTF-8: {error}.") from error
    return rows


def _json_row(line: str, number: int, data: DataConfig) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"Line {number} of {data.path} is not JSON ({error}); write one object per line.") from error
    if not isinstance(row, dict):
        raise UserError(f"Line {number} of {data.path} is a {type(row).__name__}; write one JSON object per line.")
    return row


def _validated(prompt: Any, number: int, data: DataConfig) -> Prompt:
    messages = isinstance(prompt, list) and all(
        isinstance(m, dict) and isinstance(m.get("content"), str) and "role" in m for m in prompt
    )
    if not (isinstance(prompt, str) or messages) or not text_of(prompt).strip():
        raise UserError(
            f"The prompt in row {number} of {data.path} is {prompt!r}; it must be a non-empty text or a list of "
            "messages with role and content."
        )
    if isinstance(prompt, str):
        return encodable(prompt)
    return [_without_nulls(message) | {"content": encodable(message["content"])} for message in prompt]


def _without_nulls(value: Any) -> Any:
    """Without the keys that are null: Arrow gives every message the keys of all others."""
    if isinstance(value, dict):
        return {key: _without_nulls(each) for key, each in value.items() if each is not None}
    return [_without_nulls(each) for each in value] if isinstance(value, list) else value
