"""The base policy: a small Llama trained on replies of the grammar.

Several replies share one prompt in a row of tokens, which saves a third of the computation:

    prompt[:-1] | prompt[-1] reply_1 EOS | prompt[-1] reply_2 EOS | ...

A reply attends to the prompt and itself only, at the positions that it has in a sequence of its own, so training and
generation have the same inputs.
"""

from collections.abc import Sequence
from random import Random

import torch
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from .grammar import Grammar
from .optimise import Batch, llama_config
from .sizes import Size

IGNORED = -100  # label of a token without loss
PROMPT = 0  # segment of the shared prompt; replies are 1, 2, ...
PADDING = -1

Row = tuple[list[int], list[int], list[int], list[int]]  # ids, segments, positions, labels


def new_policy(tokenizer: PreTrainedTokenizerFast, size: Size) -> LlamaForCausalLM:
    """An untrained policy of two layers."""
    return LlamaForCausalLM(llama_config(tokenizer, size.policy_hidden, size.policy_inner))


def policy_batches(grammar: Grammar, tokenizer: PreTrainedTokenizerFast, size: Size, rng: Random) -> list[Batch]:
    """Random prompts with `replies_per_row` replies each, rows of similar length together, batches in random order."""
    prompts = rng.choices(grammar.prompts, k=size.policy_steps * size.policy_rows)
    replies = [[grammar.sample(prompt.task, rng).text for _ in range(size.replies_per_row)] for prompt in prompts]
    prompt_ids = tokenizer([prompt.text for prompt in prompts])["input_ids"]
    reply_ids = [tokenizer(texts)["input_ids"] for texts in replies]
    rows = sorted(
        map(lambda p, r: pack(p, r, tokenizer.eos_token_id), prompt_ids, reply_ids), key=lambda row: len(row[0])
    )
    batches = [rows[i : i + size.policy_rows] for i in range(0, len(rows), size.policy_rows)]
    rng.shuffle(batches)
    return [collate(batch, tokenizer.pad_token_id) for batch in batches]


def pack(prompt: list[int], replies: Sequence[list[int]], eos: int) -> Row:
    """One row: the prompt once, then every reply behind a copy of the prompt's last token."""
    start = len(prompt) - 1
    ids, segments, positions, labels = prompt[:-1], [PROMPT] * start, list(range(start)), [IGNORED] * start
    for segment, reply in enumerate(replies, start=1):
        ids = [*ids, prompt[-1], *reply, eos]
        segments += [segment] * (len(reply) + 2)
        positions += range(start, start + len(reply) + 2)
        labels += [IGNORED, *reply, eos]
    return ids, segments, positions, labels


def collate(rows: Sequence[Row], pad: int) -> Batch:
    """Tensors (B, T) of rows, padded on the right, and the attention mask (B, 1, T, T)."""
    longest = max(len(row[0]) for row in rows)

    def padded(part: int, filler: int) -> Tensor:
        return torch.tensor([row[part] + [filler] * (longest - len(row[part])) for row in rows])

    segments = padded(1, PADDING)
    visible = (segments[:, None, :] == PROMPT) | (segments[:, None, :] == segments[:, :, None])
    causal = torch.ones(longest, longest, dtype=torch.bool).tril()
    return {
        "input_ids": padded(0, pad),
        "position_ids": padded(2, 0),
        "labels": padded(3, IGNORED),
        "attention_mask": (visible & causal)[:, None],
    }
