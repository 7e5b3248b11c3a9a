"""Reward models in memory: which of them, where, and how many at most."""

import os
from collections.abc import Mapping, Sequence

import numpy as np
import psutil

from mapft.config import Residency
from mapft.rewards import Score, Scorer
from mapft.rewards.score import NO_COLUMNS, Columns, own_columns
from mapft.rewards.scoring import check_finite

MEMORY_SHARE = 0.25  # of the free memory for reward models; rollouts, gradients and the critic need the rest


class RewardModels:
    """The scorers of several values, each loaded when it first scores.

    resident: all stay on the device. offload: all stay in host memory and move to the device to score. one_at_a_time:
    each is loaded from disk to score and released before the next. auto: `choose_residency` at the first score, when
    the policy is already in memory. max_loaded: RuntimeError instead of more models in memory than this.
    """

    def __init__(
        self, scores: Mapping[str, Score], residency: Residency = Residency.auto, max_loaded: int | None = None
    ):
        self.scores, self.max_loaded, self.residency = scores, max_loaded, residency
        self._loaded: dict[str, Scorer] = {}

    def __len__(self) -> int:
        """Number of reward models in memory."""
        return len(self._loaded)

    @property
    def nbytes(self) -> int:
        """Bytes of their weights."""
        return sum(scorer.nbytes for scorer in self._loaded.values())

    def score(
        self, name: str, prompts: Sequence[str], responses: Sequence[str], columns: Columns = NO_COLUMNS
    ) -> np.ndarray:
        """Raw scores r_i(x, y) of one value, (N,) float64, all finite. columns: it reads its own of them."""
        scorer, own = self._get(name), own_columns(name, self.scores[name], columns)
        if self.residency is not Residency.offload:
            return check_finite(name, scorer.score(prompts, responses, own))
        scorer.to_device()
        try:
            return check_finite(name, scorer.score(prompts, responses, own))
        finally:
            scorer.to_host()

    def load(self) -> None:
        """Load every model now, so that an invalid one is reported before it is needed."""
        for name in self.scores:
            self._get(name)

    def release(self) -> None:
        """Release every reward model."""
        self._loaded.clear()

    def _get(self, name: str) -> Scorer:
        if self.residency is Residency.auto:
            self.residency = choose_residency(self.scores)
        if name not in self._loaded:
            if self.residency is Residency.one_at_a_time:
                self.release()
            if self.max_loaded is not None and len(self) >= self.max_loaded:
                raise RuntimeError(
                    f"{name} would be reward model {len(self) + 1} in memory, beside {', '.join(self._loaded)}; at "
                    f"most {self.max_loaded} may be loaded."
                )
            self._loaded[name] = self.scores[name].load(name)
            if self.residency is Residency.offload:
                self._loaded[name].to_host()
        return self._loaded[name]


def choose_residency(scores: Mapping[str, Score]) -> Residency:
    """resident where all fit into a quarter of the device's free memory, else offload where they fit into a quarter of
    the host's, else one_at_a_time.
    """
    needed = sum(score.estimated_nbytes() for score in scores.values())
    return residency_for(needed, *_free_memory())


def residency_for(needed: int, device_free: int, host_free: int | None) -> Residency:
    """The rule of `choose_residency` in bytes; host_free is None where the host is the device."""
    if needed <= MEMORY_SHARE * device_free:
        return Residency.resident
    if host_free is not None and needed <= MEMORY_SHARE * host_free:
        return Residency.offload
    return Residency.one_at_a_time


def _free_memory() -> tuple[int, int | None]:
    """Free bytes of the device and, where that is a GPU, of the host."""
    import torch

    from mapft.utils.device import device

    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # they share the host's memory
    host, here = psutil.virtual_memory().available // processes, device()
    return (host, None) if here.type == "cpu" else (torch.cuda.mem_get_info(here)[0], host)
