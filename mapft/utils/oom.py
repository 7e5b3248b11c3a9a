"""Generation in parts where a batch does not fit into memory, with the random numbers of the complete batch."""

import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from accelerate.utils.memory import should_reduce_batch_size
from torch.overrides import TorchFunctionMode

from mapft.utils.device import free_memory

logger = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")


class OomRetry:
    """Calls generate(rows) for all rows of a batch, or for half as many at a time where memory runs out.

    `generate` samples with torch.multinomial, one token per row and step, and uses no other random numbers (no
    dropout). The parts see the random numbers that their rows have in the complete batch, so a response is the same up
    to the rounding of a pass over fewer rows. The next batch starts with the size that fitted. An error other than
    memory, or memory for a single row, is raised. `generate` must leave no state behind when it raises.

    largest: most rows at a time from the beginning; None: all rows of a batch.
    """

    def __init__(self, largest: int | None = None) -> None:
        self.largest = largest

    def __call__(
        self,
        rows: Sequence[T],
        generate: Callable[[Sequence[T]], R],
        on_part: Callable[[int], None] = lambda done: None,
    ) -> list[R]:
        """The results of `generate`, one per part, in the order of the rows. on_part: called with the rows so far."""
        size, state = min(len(rows), self.largest or len(rows)), _random_state()
        while True:
            try:
                return _in_parts(rows, size, generate, state, on_part)
            except RuntimeError as error:
                if size == 1 or not should_reduce_batch_size(error):
                    raise
            # Outside the handler, which would keep the tensors of the failed pass alive.
            free_memory()
            half = (size + 1) // 2
            logger.warning("Out of memory while generating %d responses at a time; continuing with %d.", size, half)
            self.largest = size = half


def _in_parts(
    rows: Sequence[T], size: int, generate: Callable[[Sequence[T]], R], state: Any, on_part: Callable[[int], None]
) -> list[R]:
    _restore(state)
    if size == len(rows):
        results = [generate(rows)]
        on_part(size)
        return results
    results, most_steps, end = [], -1, state
    for start in range(0, len(rows), size):
        _restore(state)
        part = slice(start, start + size)
        with _NoiseOfCompleteBatch(part, len(rows)) as noise:
            results.append(generate(rows[part]))
        on_part(min(start + size, len(rows)))
        if noise.steps > most_steps:
            most_steps, end = noise.steps, _random_state()
    _restore(end)  # the state after the complete batch, which takes as many steps as its longest part
    return results


class _NoiseOfCompleteBatch(TorchFunctionMode):
    """torch.multinomial with one sample per row: argmax_k p_k / e_k, with e ~ Exp(1) sampled for the complete batch.

    part: the rows that are generated. rows: of the complete batch. steps: calls of multinomial so far.
    """

    def __init__(self, part: slice, rows: int):
        super().__init__()
        self.part, self.rows, self.steps = part, rows, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not torch.multinomial:
            return func(*args, **kwargs)
        p_NK = args[0]
        assert (args[1] if len(args) > 1 else kwargs["num_samples"]) == 1
        if not (p_NK.isfinite() & (p_NK >= 0)).all():
            return func(*args, **kwargs)  # raises torch's own error
        self.steps += 1
        noise_BK = p_NK.new_empty(self.rows, p_NK.size(1)).exponential_(1.0)
        return (p_NK / noise_BK[self.part]).argmax(dim=-1, keepdim=True)


def _random_state() -> tuple[torch.Tensor, list[torch.Tensor]]:
    return torch.get_rng_state(), torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []


def _restore(state: tuple[torch.Tensor, list[torch.Tensor]]) -> None:
    torch.set_rng_state(state[0])
    if state[1]:
        torch.cuda.set_rng_state_all(state[1])
