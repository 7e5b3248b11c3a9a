"""One training loop for all models of the world."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

WARM_UP = 0.05  # share of the steps in which the learning rate rises
COOL_DOWN = 0.6  # share of the steps in which it falls again, linearly to zero

Batch = dict[str, Tensor]


def fit(
    model: nn.Module, batches: Sequence[Batch], *, block_lr: float, outer_lr: float, on_step: Callable[[int], None]
) -> None:
    """Minimise `model(**batch).loss` by AdamW, one step per batch; `on_step` is told how many are done.

    The matrices inside the transformer blocks learn with `block_lr`. Embedding, head and norms take `outer_lr`, which
    is ten times as large and more: most tokens are rare, and their rows must be learnt in a few hundred steps.
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
    """Factor of the learning rate at `step` = 0, 1, ...: up to 1, level, and down towards 0."""
    return min(1.0, (step + 1) / (WARM_UP * steps), (steps - step) / (COOL_DOWN * steps))
