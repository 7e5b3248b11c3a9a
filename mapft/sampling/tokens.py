"""Prompts as token ids, and their limit of length."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from mapft.config import DataConfig, SamplingConfig, TooLong
from mapft.sampling.prompts import Prompt, PromptRow
from mapft.utils.errors import UserError, working_on
from mapft.utils.text import text_of
from mapft.utils.weights import check_vocabulary


@dataclass(frozen=True)
class TokenizedPrompts:
    """Prompts as token ids, and as the texts that scores read."""

    ids: list[list[int]]
    texts: list[str]


def render(rows: Sequence[PromptRow], tokenizer: PreTrainedTokenizerBase) -> list[PromptRow]:
    """The rows with their token ids, and the texts that scores read as prompts."""
    tokenized = tokenize([row.prompt for row in rows], tokenizer)
    return [
        replace(row, prompt=text, ids=ids) for row, text, ids in zip(rows, tokenized.texts, tokenized.ids, strict=True)
    ]


def token_rows(rows: Sequence[PromptRow]) -> TokenizedPrompts:
    """The tokens and texts of rendered rows."""
    return TokenizedPrompts([row.ids for row in rows], [text_of(row.prompt) for row in rows])


def tokenize(prompts: Sequence[Prompt], tokenizer: PreTrainedTokenizerBase) -> TokenizedPrompts:
    """Texts unchanged, messages through the chat template with the generation prompt."""
    if any(not isinstance(prompt, str) for prompt in prompts) and not tokenizer.chat_template:
        raise UserError(
            f"The prompts are messages, and the tokenizer of {tokenizer.name_or_path} has no chat template; use "
            "prompts that are texts (data.as_chat=false), or a chat model."
        )
    ids = []
    for prompt in prompts:
        with working_on(f"The prompt {text_of(prompt)[:60]!r}", f"cannot be tokenized by {tokenizer.name_or_path}"):
            if isinstance(prompt, str):
                encoded = tokenizer(prompt)
            else:
                encoded = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=True)
            ids.append(encoded["input_ids"])
    return TokenizedPrompts(ids, [text_of(prompt) for prompt in prompts])


def shorten_prompts(
    prompts: Sequence[PromptRow], tokenizer: PreTrainedTokenizerBase, data: DataConfig
) -> tuple[list[PromptRow], int]:
    """The prompts after data.too_long is applied to those over data.max_prompt_tokens, and the number of the latter.

    A text that is cut keeps its last tokens, next to the response; messages are never cut but skipped.
    """
    limit, remaining, long = data.max_prompt_tokens, [], 0
    for row, ids in zip(prompts, tokenize([row.prompt for row in prompts], tokenizer).ids, strict=True):
        if len(ids) <= limit:
            remaining.append(row)
            continue
        long += 1
        if data.too_long is TooLong.cut and isinstance(row.prompt, str):
            remaining.append(replace(row, prompt=_cut(row.prompt, tokenizer, limit)))
    return remaining, long


def _cut(prompt: str, tokenizer: PreTrainedTokenizerBase, limit: int) -> str:
    """The end of the text with at most `limit` tokens, without leading white space; its last character if none has.

    Decoding the last tokens instead would begin with half a character where a character has several tokens.
    """

    def fits(start: int) -> bool:
        return len(tokenizer(prompt[start:].lstrip())["input_ids"]) <= limit

    start = bisect_left(range(len(prompt)), True, key=fits)
    return prompt[start:].lstrip() or prompt[-1:]


def check_prompt_lengths(prompts: TokenizedPrompts, policy: Any, data: DataConfig, sampling: SamplingConfig) -> None:
    """UserError for a prompt over data.max_prompt_tokens, or over the model's positions - sampling.max_new_tokens.

    Also for one with a token that the model has no embedding for.
    """
    context = getattr(policy.config.get_text_config(), "max_position_embeddings", None)
    room = data.max_prompt_tokens if context is None else context - sampling.max_new_tokens
    limit = f"data.max_prompt_tokens={data.max_prompt_tokens}"
    if room < data.max_prompt_tokens:
        limit = f"the {context} positions of the model minus sampling.max_new_tokens={sampling.max_new_tokens}"
    for ids, text in zip(prompts.ids, prompts.texts, strict=True):
        check_vocabulary(
            {f"a token of the prompt {text[:60]!r}": max(ids, default=0)}, policy, f"model.path={policy.name_or_path}"
        )
        if len(ids) > min(room, data.max_prompt_tokens):
            raise UserError(
                f"A prompt of {len(ids)} tokens is longer than {limit}: {text[:60]!r}; shorten it, set "
                "data.too_long=drop or cut, or change the limit."
            )
