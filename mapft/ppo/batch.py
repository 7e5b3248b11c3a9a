"""A rollout as tensors, and how it is cut into micro-batches.

Shapes: B responses, P prompt tokens (left-padded), T response tokens (right-padded).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mapft.ppo.trl_seam import pad

Batch = dict[str, Tensor]  # prompt_ids, prompt_mask (B, P); completion_ids, mask and further arrays (B, T)


def padded_batch(
    prompt_ids: Sequence[Sequence[int]], completion_ids: Sequence[Sequence[int]], pad_id: int, device: torch.device
) -> Batch:
    """Padded token ids; masks come from lengths, never from ids: a policy may sample the pad token."""
    return {
        "prompt_ids": padded(prompt_ids, "left", pad_id, device),
        "prompt_mask": padded([[1] * len(ids) for ids in prompt_ids], "left", 0, device),
        "completion_ids": padded(completion_ids, "right", pad_id, device),
        "mask": padded([[1] * len(ids) for ids in completion_ids], "right", 0, device),
    }


def padded(rows: Sequence[Any], side: str, value: float, device: torch.device) -> Tensor:
    """Rows of numbers as one array."""
    return pad([torch.tensor(row) for row in rows], value, side).to(device)


def sequence_lengths(batch: Batch) -> Tensor:
    """Tokens of prompt and response, (B,)."""
    return batch["prompt_mask"].sum(1) + batch["mask"].sum(1)


def select_rows(batch: Batch, rows: Tensor) -> Batch:
    """These rows, without the columns that are padding in all of them."""
    width = int(batch["prompt_mask"][rows].sum(1).max())
    length = int(batch["mask"][rows].sum(1).max())
    return {
        name: array[rows, -width:] if name.startswith("prompt") else array[rows, :length]
        for name, array in batch.items()
    }


def plan_epoch(batch: Batch, num_mini_batches: int, micro_batch: int, seed: int) -> list[Tensor]:
    """Rows of every micro-batch of one epoch: random mini-batches, each sorted by length and split."""
    lengths = sequence_lengths(batch)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(lengths), generator=generator).to(lengths.device)
    plan: list[Tensor] = []
    for rows in order.tensor_split(num_mini_batches):
        by_length = rows[lengths[rows].argsort(stable=True)]
        plan.extend(by_length.split(micro_batch))
    return plan
