"""The order of prompts: shuffled, and grouped into PPO iterations."""

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler

from mapft.utils.seeds import derive_seed


class PromptSampler(Sampler[int]):
    """Row numbers for the whole run: consecutive shuffled epochs over the prompts, split into iterations.

    An iteration has per_iteration prompts, each num_generations times, and is repeated `repeats` times, once per
    micro-batch, because GRPOTrainer's loader passes the rows of the rollout to every step. Epoch e is shuffled by
    (seed, e) alone, so that a resumed run sees the same prompts.
    """

    def __init__(
        self, prompts: int, per_iteration: int, num_generations: int, repeats: int, iterations: int, seed: int
    ):
        self.prompts, self.per_iteration, self.num_generations = prompts, per_iteration, num_generations
        self.repeats, self.iterations, self.seed = repeats, iterations, seed

    def __iter__(self) -> Iterator[int]:
        stream = self._shuffled()
        for _ in range(self.iterations):
            chunk = [row for _ in range(self.per_iteration) for row in [next(stream)] * self.num_generations]
            for _ in range(self.repeats):
                yield from chunk

    def _shuffled(self) -> Iterator[int]:
        for epoch in range(self.iterations * self.per_iteration):
            generator = torch.Generator().manual_seed(derive_seed(self.seed, "prompts", epoch))
            yield from torch.randperm(self.prompts, generator=generator).tolist()

    def __len__(self) -> int:
        return self.iterations * self.per_iteration * self.num_generations * self.repeats
