"""The reward models: small Llamas that predict the grammar's labels at the last token of prompt + reply."""

from random import Random

import torch
from transformers import LlamaForSequenceClassification, PreTrainedTokenizerFast

from .grammar import VALUES, Grammar
from .optimise import Batch, llama_config
from .sizes import Size


def new_reward(value: str, tokenizer: PreTrainedTokenizerFast, size: Size) -> LlamaForSequenceClassification:
    """An untrained reward model of two layers with one output, named after its human value."""
    return LlamaForSequenceClassification(
        llama_config(tokenizer, size.reward_hidden, size.reward_inner, id2label={0: value})
    )


def reward_batches(
    value: str, grammar: Grammar, tokenizer: PreTrainedTokenizerFast, size: Size, rng: Random
) -> list[Batch]:
    """Texts prompt + reply with the label of `value`, texts of similar length together, batches in random order."""
    index = VALUES.index(value)
    prompts = rng.choices(grammar.prompts, k=size.reward_steps * size.reward_rows)
    replies = [grammar.sample(prompt.task, rng) for prompt in prompts]
    ids = tokenizer([prompt.text + reply.text for prompt, reply in zip(prompts, replies, strict=True)])["input_ids"]
    rows = sorted(zip(ids, (reply.labels[index] for reply in replies), strict=True), key=lambda row: len(row[0]))
    batches = [rows[i : i + size.reward_rows] for i in range(0, len(rows), size.reward_rows)]
    rng.shuffle(batches)
    return [_collate(batch, tokenizer) for batch in batches]


def _collate(rows: list[tuple[list[int], float]], tokenizer: PreTrainedTokenizerFast) -> Batch:
    padded = tokenizer.pad({"input_ids": [ids for ids, _ in rows]}, padding_side="right", return_tensors="pt")
    return {"input_ids": padded["input_ids"], "labels": torch.tensor([label for _, label in rows])}
