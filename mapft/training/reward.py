"""lam.r as a TRL reward function."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mapft.palette.precision import Z95
from mapft.rewards.loader import RewardModels
from mapft.utils.text import text_of

COLUMNS = "columns"  # of a dataset: the columns that scores read, as JSON
Observer = Callable[[Any, Sequence[str], Mapping[str, np.ndarray], Sequence[float]], Mapping[str, float]]


class PaletteReward:
    """R(x, y) = kl_coef * sum_i (lam_i - mu_i) (r_i(x, y) - base_i), whose optimum at KL weight kl_coef is p_lam.

    mu = `reference_lam` are the multipliers of the reference policy: 0 for p0 (paper, theorem 2), those of the
    previous visit in sequential mode. `base`, the base levels, cancel in p_lam. They are subtracted in float64, because
    the trainer's float32 numbers would lose the differences between scores that are far from 0. The values in `lam`
    are scored.

    A TRL reward function (`prompts, completions, completion_ids, **kwargs -> list[float]`), usable in GRPOTrainer and
    RLOOTrainer too. Scores that read columns of the data get them from the column `columns` of the dataset, which has
    one JSON object per row (`fit.training_dataset`). Logs mean, 95 % interval and sd of every value's raw scores
    (map/scores/{value}, ...), its lam, and the reward models in memory. observe: called with the trainer's state, a
    text per row that is the same for the same prompt and columns, scores (B,) by value and log pi/p_ref (B,) in nats,
    which PPOTrainer gives; returns the lam of this reward.
    """

    def __init__(
        self,
        models: RewardModels,
        lam: Mapping[str, float],
        kl_coef: float,
        observe: Observer | None = None,
        reference_lam: Mapping[str, float] | None = None,
        base: Mapping[str, float] | None = None,
    ):
        self.models, self.lam, self.kl_coef, self.observe = models, lam, kl_coef, observe
        zero = dict.fromkeys(lam, 0.0)
        self.reference_lam, self.base = reference_lam or zero, base or zero
        self.__name__ = "palette"

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        log_metric: Callable[[str, float], None] = lambda name, value: None,
        log_extra: Callable[[str, list[float]], None] = lambda name, column: None,
        trainer_state: Any = None,
        log_ratio: Sequence[float] = (),
        response_texts: Sequence[str] = (),
        columns: Sequence[str] = (),
        **_: Any,
    ) -> list[float]:
        """One reward per completion."""
        texts = [text_of(prompt) for prompt in prompts]
        responses = list(response_texts) or [text_of(completion) for completion in completions]
        rows = [json.loads(row) for row in columns]
        by_name = {name: [row[name] for row in rows] for name in (rows[0] if rows else ())}
        scores = {name: self.models.score(name, texts, responses, by_name) for name in self.lam}
        if self.observe:
            keys = [text + row for text, row in zip(texts, columns, strict=True)] if rows else texts
            self.lam = self.observe(trainer_state, keys, scores, log_ratio)
        for name, scores_B in scores.items():
            log_extra(name, scores_B.tolist())
            mean, sd = float(scores_B.mean()), float(scores_B.std())
            half = Z95 * sd / len(scores_B) ** 0.5
            log_metric(f"map/scores/{name}", mean)
            log_metric(f"map/scores_low/{name}", mean - half)
            log_metric(f"map/scores_high/{name}", mean + half)
            log_metric(f"map/scores_std/{name}", sd)
            log_metric(f"map/lam/{name}", self.lam[name])
        log_metric("memory/reward_models_loaded", len(self.models))
        log_metric("memory/reward_models_gb", self.models.nbytes / 1e9)
        return self.price(torch.from_numpy(np.column_stack([scores[name] for name in self.lam]))).tolist()

    def price(self, scores_NV: Tensor) -> Tensor:
        """R (N,) of raw scores, columns in the order of lam, under the current lam, in float64."""
        lam_V, reference_V, base_V = (
            torch.tensor([numbers[name] for name in self.lam], dtype=torch.float64)
            for numbers in (self.lam, self.reference_lam, self.base)
        )
        return self.kl_coef * (scores_NV.double() - base_V) @ (lam_V - reference_V)
