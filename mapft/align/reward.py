"""lam.r as a TRL reward function."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mapft.rewards import Scorer
from mapft.rewards.scoring import finite
from mapft.sampling.prompts import text_of


class PaletteReward:
    """R(x, y) = kl_coef * sum_i lam_i r_i(x, y), so that with KL weight kl_coef the optimum is p_lam (theorem 2).

    A TRL reward function (`prompts, completions, completion_ids, **kwargs -> list[float]`), usable in GRPOTrainer and
    RLOOTrainer too. Logs every value's raw scores: map/scores/{value} (mean) and map/scores_std/{value}.
    """

    def __init__(self, scorers: Mapping[str, Scorer], lam: Mapping[str, float], kl_coef: float):
        self.scorers, self.lam, self.kl_coef = scorers, lam, kl_coef
        self.__name__ = "palette"

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        log_metric: Callable[[str, float], None] = lambda name, value: None,
        **_: Any,
    ) -> list[float]:
        """One reward per completion."""
        texts = [text_of(prompt) for prompt in prompts]
        answers = [text_of(completion) for completion in completions]
        total_N = np.zeros(len(texts))
        for name, scorer in self.scorers.items():
            scores_N = finite(name, scorer.score(texts, answers))
            log_metric(f"map/scores/{name}", float(scores_N.mean()))
            log_metric(f"map/scores_std/{name}", float(scores_N.std()))
            total_N += self.lam[name] * scores_N
        return (self.kl_coef * total_N).tolist()
