"""Prompts, and the columns of their rows that scores read, from a file or a dataset."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from types import MappingProxyType
from typing import Any

from mapft.config import DataConfig, Extract
from mapft.rewards.score import Score, columns_read
from mapft.sampling.prompt_files import open_prompts
from mapft.utils.errors import UserError
from mapft.utils.text import encodable, text_of

HASH_BYTES = 16  # of a row
REPORT_ROWS = 1_000_000  # after so many rows of a long file, a sentence
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
    Of more than data.max_prompts rows, a random sample is kept, which depends on their content alone. UserError for the
    first invalid row, for a column that a score reads and no row has, and for fewer than `at_least` prompts. option:
    name of the setting that data.path comes from. report: receives a sentence about rows that are not used.
    """
    file = open_prompts(data, option)
    available = file.columns() if scores else []
    read = {name: columns_read(name, score, available) for name, score in scores.items()} if available else {}
    columns = sorted({column for names in read.values() for column in names})
    prompts = _Sample(data.max_prompts)
    number = skipped = 0
    for number, row in enumerate(file.read(), 1):
        if number % REPORT_ROWS == 0:
            report(f"{number:,} rows of {data.path} are read.")
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
        prompts.add(prompt_row)
    rows, total = prompts.rows(), number
    if skipped:
        report(f"{skipped} of {total} rows of {data.path} have no prompt with data.extract={data.extract}.")
    if prompts.repeated and not prompts.left_out:
        report(f"{prompts.repeated} of {total} rows of {data.path} repeat an earlier one and are left out.")
    if prompts.left_out:
        report(f"{data.path} has {total} rows; a random sample of {len(rows)} is used (data.max_prompts).")
    if data.as_chat:
        rows = [PromptRow(_as_chat(row.prompt), row.columns) for row in rows]
    if len({isinstance(row.prompt, str) for row in rows}) > 1:
        raise UserError(f"{data.path} mixes texts and lists of messages; use one of the two in a file.")
    distinct = len({json.dumps(row.prompt) for row in rows})
    if distinct < at_least:
        purpose = ", one for training and one for evaluation" if at_least == 2 else ""
        raise UserError(f"{data.path} has {distinct} distinct prompts; give at least {at_least}{purpose}.")
    return rows


class _Sample:
    """The distinct rows that are added, in their order; of more than `size` those with the least hashes."""

    def __init__(self, size: int | None) -> None:
        self.size, self.repeated, self.left_out = size or math.inf, 0, False
        self._rows: dict[bytes, PromptRow] = {}  # by their hash
        self._bound = b"\xff" * HASH_BYTES  # rows that can still be kept have less

    def add(self, row: PromptRow) -> None:
        """Keep the row for now."""
        content = json.dumps([row.prompt, row.columns]).encode()
        key = blake2b(content, digest_size=HASH_BYTES).digest()
        if key >= self._bound:
            return
        self.repeated += key in self._rows
        self._rows.setdefault(key, row)
        if len(self._rows) >= 2 * self.size:
            self._drop()

    def rows(self) -> list[PromptRow]:
        """The sample."""
        if len(self._rows) > self.size:
            self._drop()
        return list(self._rows.values())

    def _drop(self) -> None:
        self.left_out = True
        self._bound = sorted(self._rows)[int(self.size)]
        self._rows = {key: row for key, row in self._rows.items() if key < self._bound}


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
