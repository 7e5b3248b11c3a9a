"""Reward models in memory: which of them, where, and how many at most."""

import os
from collections.abc import Mapping, Sequence

import numpy as np
import psutil

from mapft.config import Residency
from mapft.rewards import Score, Scorer
from mapft.rewards.scoring import finite

SHARE = 0.25  # of the free memory that reward models may take; rollouts, gradients and the critic need the rest


class RewardModels:
    """The scorers of several values, each loaded when it first scores.

    resident: all stay on the device. offload: all stay in host memory and come to the device to score.
    one_at_a_time: each is loaded from disk to score and dropped before the next. auto: `choose`, at the first score,
    when the policy is in memory already. most: how many may be in memory; one more is an error, not a silent swap.
    """

    def __init__(self, scores: Mapping[str, Score], residency: Residency = Residency.auto, most: int | None = None):
        self.scores, self.most, self.residency = scores, most, residency
        self._loaded: dict[str, Scorer] = {}

    def __len__(self) -> int:
        """How many reward models are in memory."""
        return len(self._loaded)

    @property
    def nbytes(self) -> int:
        """Bytes of their weights."""
        return sum(scorer.nbytes for scorer in self._loaded.values())

    def score(self, name: str, prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        """Raw scores r_i(x, y) of one value, (N,) float64, all finite."""
        if self.residency is Residency.auto:
            self.residency = choose(self.scores)
        scorer = self._get(name)
        if self.residency is not Residency.offload:
            return finite(name, scorer.score(prompts, responses))
        scorer.to_device()
        try:
            return finite(name, scorer.score(prompts, responses))
        finally:
            scorer.to_host()

    def load(self) -> None:
        """Load every model now, so that one that does not load is named before it is needed."""
        if self.residency is Residency.auto:
            self.residency = choose(self.scores)
        for name in self.scores:
            self._get(name)

    def release(self) -> None:
        """Drop every reward model."""
        self._loaded.clear()

    def _get(self, name: str) -> Scorer:
        if name not in self._loaded:
            if self.residency is Residency.one_at_a_time:
                self.release()
            if self.most is not None and len(self) >= self.most:
                held = ", ".join(self._loaded)
                raise RuntimeError(f"{name} would be reward model {len(self) + 1} in memory beside {held}.")
            self._loaded[name] = self.scores[name].load(name)
        return self._loaded[name]


def choose(scores: Mapping[str, Score]) -> Residency:
    """resident where all fit into a quarter of the device's free memory, else offload where they fit into a quarter of
    the host's, else one_at_a_time.
    """
    needed = sum(score.estimated_nbytes() for score in scores.values())
    return residency_for(needed, *_free())


def residency_for(needed: int, device_free: int, host_free: int | None) -> Residency:
    """`choose` in numbers of bytes; host_free is None where the host is the device."""
    if needed <= SHARE * device_free:
        return Residency.resident
    if host_free is not None and needed <= SHARE * host_free:
        return Residency.offload
    return Residency.one_at_a_time


def _free() -> tuple[int, int | None]:
    import torch

    from mapft.forward import device

    host = psutil.virtual_memory().available // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # processes share it
    where = device()
    return (host, None) if where.type == "cpu" else (torch.cuda.mem_get_info(where)[0], host)
