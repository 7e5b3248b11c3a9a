"""Log-probabilities of sampled tokens, recorded while they are generated.

Shapes: B responses, T response tokens, K vocabulary.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


class SampledLogProbs:
    """log p(token) of every sampled token, fp32; one (B, K) array is held at a time, never (B, T, K)."""

    def __init__(self) -> None:
        self.columns_B: list[Tensor] = []
        self.next_BK: Tensor | None = None

    def record(self, ids_B: Tensor) -> None:
        """The tokens that were sampled from the last distribution."""
        if self.next_BK is not None:
            self.columns_B.append(self.next_BK.gather(1, ids_B[:, None]).squeeze(1))

    def of_responses(self, responses: Sequence[Sequence[int]]) -> list[list[float]]:
        """One list per response. The model never sees the last column, so its tokens are taken from the responses."""
        assert self.next_BK is not None
        length = len(self.columns_B)
        last = [ids[length] if len(ids) > length else 0 for ids in responses]
        self.record(torch.tensor(last, device=self.next_BK.device))
        rows = torch.stack(self.columns_B, dim=1).tolist()
        return [row[: len(ids)] for row, ids in zip(rows, responses, strict=True)]


@contextmanager
def record_log_probs(causal: Any) -> Iterator[SampledLogProbs]:
    """Inside, `causal.generate` at temperature 1 with no other change to the logits fills the SampledLogProbs."""
    sampled = SampledLogProbs()

    def before(module: Any, args: Any, kwargs: Any) -> None:
        sampled.record(kwargs["input_ids"][:, -1])

    def after(module: Any, args: Any, output: Any) -> None:
        sampled.next_BK = output.logits[:, -1].float().log_softmax(-1)

    handles = [causal.register_forward_pre_hook(before, with_kwargs=True), causal.register_forward_hook(after)]
    try:
        yield sampled
    finally:
        for handle in handles:
            handle.remove()
