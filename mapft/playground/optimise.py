"""The architecture and the training loop of all models of the world."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, PreTrainedTokenizerFast

WARM_UP = 0.05  # share of the steps in which the learning rate rises
COOL_DOWN = 0.6  # share of the steps in which it falls again, linearly to zero

Batch = dict[str, Tensor]


def llama_config(tokenizer: PreTrainedTokenizerFast, hidden: int, inner: int, **more: Any) -> LlamaConfig:
    """Two Llama layers over the tokenizer's vocabulary and special tokens."""
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=tokenizer.model_max_length,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **more,
    )


def fit(
    model: nn.Module, batches: Sequence[Batch], *, block_lr: float, outer_lr: float, on_step: Callable[[int], None]
) -> None:
    """Minimise `model(**batch).loss` by AdamW, one step per batch; on_step gets the number of steps done.

    block_lr: learning rate of the matrices in the transformer blocks. outer_lr: of embedding, head and norms; it is at
    least ten times larger, because most tokens are rare and their rows must be learnt in a few hundred steps.
    """
    blocks = [p for name, p in model.named_parameters() if p.ndim == 2 and ".layers." in name]
    inside = {id(p) for p in blocks}
    others = [p for p in model.parameters() if id(p) not in inside]
    groups = [{"params": blocks, "lr": block_lr}, {"params": others, "lr": outer_lr}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, len(batches)))
    model.train()
    for step, batch in enumerate(batches, start=1):
        model(**batch).loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        on_step(step)
    model.eval()


def rate(step: int, steps: int) -> float:
    """Factor of the learning rate at step = 0, 1, ...: a linear rise to 1, a constant part, a linear fall towards 0."""
    return min(1.0, (step + 1) / (WARM_UP * steps), (steps - step) / (COOL_DOWN * steps))
