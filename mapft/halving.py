"""A batch of responses in parts where it does not fit into memory, with the draws of the whole batch."""

import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from accelerate.utils.memory import should_reduce_batch_size
from torch.overrides import TorchFunctionMode

from mapft.forward import give_back_memory

logger = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")


class Halving:
    """Calls draw(rows) for the rows of a batch at once, or for half as many at a time where memory runs out.

    `draw` samples with torch.multinomial, one token for each of its rows and step, and draws nothing else (no dropout).
    The halves see the random numbers of their rows in the whole batch, so a response is the same but for the rounding
    of a pass over fewer rows. What fitted once is where the next batch begins. An error other than memory, or memory
    for a single row, is raised. `draw` must leave nothing behind when it raises.
    """

    def __init__(self) -> None:
        self.most: int | None = None

    def __call__(self, rows: Sequence[T], draw: Callable[[Sequence[T]], R]) -> list[R]:
        """draw's results, one for each part, in the order of the rows."""
        size, begin = min(len(rows), self.most or len(rows)), _random_state()
        while True:
            try:
                return _parts(rows, size, draw, begin)
            except RuntimeError as error:
                if size == 1 or not should_reduce_batch_size(error):
                    raise
            # Outside the handler, which would keep the tensors of the failed pass alive.
            give_back_memory()
            logger.warning(
                "Out of memory while drawing %d responses at a time; going on with %d.", size, (size + 1) // 2
            )
            self.most = size = (size + 1) // 2


def _parts(rows: Sequence[T], size: int, draw: Callable[[Sequence[T]], R], begin: Any) -> list[R]:
    _restore(begin)
    if size == len(rows):
        return [draw(rows)]
    parts, longest, end = [], -1, begin
    for start in range(0, len(rows), size):
        _restore(begin)
        part = slice(start, start + size)
        with _RowsOfWhole(part, len(rows)) as mode:
            parts.append(draw(rows[part]))
        if mode.steps > longest:
            longest, end = mode.steps, _random_state()
    _restore(end)  # what the whole batch would have left behind
    return parts


class _RowsOfWhole(TorchFunctionMode):
    """torch.multinomial of one sample per row, argmax_k p_k / e_k with e ~ Exp(1), with e drawn for the whole batch."""

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
            return func(*args, **kwargs)  # which refuses them
        self.steps += 1
        noise_BK = p_NK.new_empty(self.rows, p_NK.size(1)).exponential_(1.0)
        return (p_NK / noise_BK[self.part]).argmax(dim=-1, keepdim=True)


def _random_state() -> tuple[torch.Tensor, list[torch.Tensor]]:
    return torch.get_rng_state(), torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []


def _restore(state: tuple[torch.Tensor, list[torch.Tensor]]) -> None:
    torch.set_rng_state(state[0])
    if state[1]:
        torch.cuda.set_rng_state_all(state[1])
