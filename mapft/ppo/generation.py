"""Log-probabilities of the tokens that generation draws, kept while it draws them.

Shapes: B responses, T response tokens, K vocabulary.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


class Drawn:
    """log p(token) of every drawn token, fp32; one (B, K) array is held at a time, never (B, T, K)."""

    def __init__(self) -> None:
        self.columns: list[Tensor] = []
        self.next_BK: Tensor | None = None

    def feed(self, ids_B: Tensor) -> None:
        """The tokens that were drawn from the last distribution."""
        if self.next_BK is not None:
            self.columns.append(self.next_BK.gather(1, ids_B[:, None]).squeeze(1))

    def log_probs(self, responses: Sequence[Sequence[int]]) -> list[list[float]]:
        """Of every response's own tokens; the last column is drawn but never fed, so it is taken from the responses."""
        assert self.next_BK is not None
        length = len(self.columns)
        last = [ids[length] if len(ids) > length else 0 for ids in responses]
        self.feed(torch.tensor(last, device=self.next_BK.device))
        rows = torch.stack(self.columns, dim=1).tolist()
        return [row[: len(ids)] for row, ids in zip(rows, responses, strict=True)]


@contextmanager
def keep_log_probs(causal: Any) -> Iterator[Drawn]:
    """Inside, `causal.generate` with temperature 1 and no other change to the logits fills the Drawn."""
    drawn = Drawn()

    def before(module: Any, args: Any, kwargs: Any) -> None:
        drawn.feed(kwargs["input_ids"][:, -1])

    def after(module: Any, args: Any, output: Any) -> None:
        drawn.next_BK = output.logits[:, -1].float().log_softmax(-1)

    handles = [causal.register_forward_pre_hook(before, with_kwargs=True), causal.register_forward_hook(after)]
    try:
        yield drawn
    finally:
        for handle in handles:
            handle.remove()
