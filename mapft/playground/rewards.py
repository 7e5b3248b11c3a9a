"""The reward models: small Llama regressors of the grammar's labels, read off the last token of prompt + reply."""

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import torch

from .grammar import VALUES, Grammar
from .sizes import Size
from .training import Batch, fit

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def train_reward(
    value: str,
    folder: Path,
    grammar: Grammar,
    tokenizer: "PreTrainedTokenizerFast",
    size: Size,
    seed: int,
    on_step: Callable[[int], None],
) -> None:
    """Train the reward model of one human value and save it in `folder`."""
    from transformers import LlamaConfig, LlamaForSequenceClassification

    rng = Random(f"{value} {seed}")
    torch.manual_seed(rng.getrandbits(32))
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=size.reward_hidden,
        intermediate_size=size.reward_inner,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=tokenizer.model_max_length,
        id2label={0: value},
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = LlamaForSequenceClassification(config)
    batches = reward_batches(value, grammar, tokenizer, size, rng)
    fit(model, batches, block_lr=size.block_lr, outer_lr=size.outer_lr, on_step=on_step)
    model.save_pretrained(folder)


def reward_batches(
    value: str, grammar: Grammar, tokenizer: "PreTrainedTokenizerFast", size: Size, rng: Random
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


def _collate(rows: list[tuple[list[int], float]], tokenizer: "PreTrainedTokenizerFast") -> Batch:
    padded = tokenizer.pad({"input_ids": [ids for ids, _ in rows]}, padding_side="right", return_tensors="pt")
    return {"input_ids": padded["input_ids"], "labels": torch.tensor([label for _, label in rows])}
