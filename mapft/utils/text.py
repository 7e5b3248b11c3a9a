"""The texts that scores read: what a prompt, a list of messages and generated token ids are as one text."""

from collections.abc import Mapping, Sequence
from typing import Any


def encodable(text: str) -> str:
    """The text with lone surrogates, which no tokenizer accepts, replaced by "?"."""
    return text.encode("utf-8", "replace").decode("utf-8")


def text_of(prompt: str | Sequence[Mapping[str, str]]) -> str:
    """A prompt or completion as scores read it: the text itself, or the contents of its messages, one per line."""
    return prompt if isinstance(prompt, str) else "\n".join(message["content"] for message in prompt)


def response_texts(tokenizer: Any, prompt_ids: Sequence[list[int]], response_ids: Sequence[Any]) -> list[str]:
    """The text of each response as scores read it, in every stage: as it continues its prompt, without special tokens.

    Some tokenizers (Llama's) strip the leading space of a text. Each response is therefore decoded together with the
    last token of its prompt, and the text of that token is removed.
    """
    last_ids = [list(ids[-1:]) for ids in prompt_ids]
    joined_ids = [[*last, *map(int, ids)] for last, ids in zip(last_ids, response_ids, strict=True)]
    prefixes, joined, separate = (
        tokenizer.batch_decode(rows, skip_special_tokens=True) for rows in (last_ids, joined_ids, list(response_ids))
    )
    return [
        text.removeprefix(prefix) if text.startswith(prefix) else response
        for prefix, text, response in zip(prefixes, joined, separate, strict=True)
    ]
