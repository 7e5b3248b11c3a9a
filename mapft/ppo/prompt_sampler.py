"""The order of prompts: shuffled, and grouped into PPO iterations."""

from collections.abc import Iterator
from itertools import count, islice, repeat

import torch
from torch.utils.data import Sampler

from mapft.utils.seeds import derive_seed


class PromptSampler(Sampler[int]):
    """Row numbers for the whole run: consecutive shuffled epochs over the prompts, split into iterations.

    An iteration has per_iteration prompts, each num_generations times, and is repeated `repeats` times, once per
    micro-batch, because GRPOTrainer's loader passes the rows of the rollout to every step. Epoch e is shuffled by
    (seed, e) alone, so that a resumed run sees the same prompts. The first `done` iterations are those of a checkpoint,
    which used `used` prompts; transformers skips their rows.
    """

    def __init__(
        self,
        prompts: int,
        per_iteration: int,
        num_generations: int,
        repeats: int,
        iterations: int,
        seed: int,
        done: int = 0,
        used: int = 0,
    ):
        self.prompts, self.per_iteration, self.num_generations = prompts, per_iteration, num_generations
        self.repeats, self.iterations, self.seed, self.done, self.used = repeats, iterations, seed, done, used

    def __iter__(self) -> Iterator[int]:
        stream = islice(self._shuffled(), self.used, None)
        for number in range(self.iterations):
            prompts = repeat(0, self.per_iteration) if number < self.done else islice(stream, self.per_iteration)
            chunk = [row for prompt in prompts for row in [prompt] * self.num_generations]
            for _ in range(self.repeats):
                yield from chunk

    def _shuffled(self) -> Iterator[int]:
        for epoch in count():
            generator = torch.Generator().manual_seed(derive_seed(self.seed, "prompts", epoch))
            yield from torch.randperm(self.prompts, generator=generator).tolist()

    def __len__(self) -> int:
        return self.iterations * self.per_iteration * self.num_generations * self.repeats
