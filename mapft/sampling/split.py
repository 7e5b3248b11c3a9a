"""The prompts of a run, split by their text into training and evaluation."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from operator import itemgetter
from typing import Any

import pandas as pd

from mapft.config import Config, TooLong
from mapft.rewards.score import Score
from mapft.sampling.prompts import PromptRow, load_prompts
from mapft.utils.errors import UserError
from mapft.utils.text import text_of

TOO_LONG_ACTIONS = {
    TooLong.drop: "they are skipped",
    TooLong.cut: "texts are cut to their last tokens, messages are skipped",
}


@dataclass(frozen=True)
class PromptSplit:
    """Distinct prompts. `pilot`: the first training prompts. `held_out`: for evaluation, never used in training."""

    training: list[PromptRow]
    pilot: list[PromptRow]
    held_out: list[PromptRow]

    @classmethod
    def of_table(cls, table: pd.DataFrame, config: Config) -> "PromptSplit":
        """From what `rendered_table` returned; of the held-out prompts the first evaluation.prompts."""
        training, held_out = (
            [
                PromptRow(prompt, json.loads(columns), ids.tolist())
                for prompt, columns, ids in zip(side["prompt"], side["columns"], side["token_ids"], strict=True)
            ]
            for side in (table[~table["held_out"]], table[table["held_out"]])
        )
        return cls(training, training[: config.data.pilot_prompts], held_out[: config.evaluation.prompts])

    @property
    def columns(self) -> list[str]:
        """Names of the columns that scores read."""
        return list(self.training[0].columns)


def load_split(
    config: Config, scores: Mapping[str, Score], report: Callable[[str], None]
) -> tuple[list[PromptRow], list[PromptRow]]:
    """(training, held-out) prompts of data.path, split by their text, with the columns that the scores read.

    report: receives a sentence about rows that are not used, and prompts that are changed.
    """
    prompts = apply_length_limit(load_prompts(config.data, scores, report=report), config, report, at_least=2)
    return split(prompts, config.data.evaluation_fraction)


def rendered_table(training: list[PromptRow], held_out: list[PromptRow], tokenizer: Any) -> pd.DataFrame:
    """The rendered prompts, to be stored: held_out, prompt (text), token_ids, columns (JSON)."""
    from mapft.sampling.tokens import render

    rows = [(side, row) for side, rows in ((False, training), (True, held_out)) for row in render(rows, tokenizer)]
    return pd.DataFrame(
        {
            "held_out": [side for side, _ in rows],
            "prompt": [row.prompt for _, row in rows],
            "token_ids": [row.ids for _, row in rows],
            "columns": [json.dumps(row.columns) for _, row in rows],
        }
    )


def apply_length_limit(
    prompts: list[PromptRow], config: Config, report: Callable[[str], None], at_least: int
) -> list[PromptRow]:
    """The prompts after data.too_long; UserError where fewer than `at_least` remain."""
    data = config.data
    if data.too_long is TooLong.stop:
        return prompts
    from mapft.sampling.models import load_tokenizer
    from mapft.sampling.tokens import shorten_prompts

    remaining, long = shorten_prompts(prompts, load_tokenizer(config.model), data)
    count = f"{long} of {len(prompts)} prompts are longer than data.max_prompt_tokens={data.max_prompt_tokens}"
    if long:
        report(f"{count}: {TOO_LONG_ACTIONS[data.too_long]}.")
    if len(remaining) < at_least:
        raise UserError(f"{count}, so {len(remaining)} remain and {at_least} are needed; raise data.max_prompt_tokens.")
    return remaining


def split(prompts: list[PromptRow], evaluation_fraction: float) -> tuple[list[PromptRow], list[PromptRow]]:
    """(training, evaluation). A prompt is for evaluation if hash(text) < evaluation_fraction, with hash in [0, 1).

    The side of a prompt depends on its text alone, not on the rest of the file. Both sides are ordered by the hash, so
    the first n prompts of a side are a random sample of it. An empty side (few prompts) gets the nearest prompt.
    UserError where all prompts have the same text.
    """
    hashed = sorted(((_hash(row), row) for row in prompts), key=itemgetter(0))
    distinct = sorted({number for number, _ in hashed})
    if len(distinct) < 2:
        raise UserError(
            f"All prompts have the text {text_of(prompts[0].prompt)[:60]!r}, so none can be held out; give others too."
        )
    held_out = min(max(sum(number < evaluation_fraction for number in distinct), 1), len(distinct) - 1)
    first = distinct[held_out]  # of training
    return [row for number, row in hashed if number >= first], [row for number, row in hashed if number < first]


def _hash(row: PromptRow) -> float:
    text = text_of(row.prompt).encode("utf-8", "replace")
    return int.from_bytes(blake2b(text, digest_size=8).digest()) / 2**64
