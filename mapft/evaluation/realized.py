"""Realized levels on held-out prompts, with intervals.

Shapes: P prompts, R bootstrap resamples.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from mapft.config import EvaluationConfig
from mapft.palette import DualSolution
from mapft.seeding import derive_seed


@dataclass(frozen=True)
class Estimate:
    """A mean over prompts with its bootstrap interval, in the unit of what was averaged."""

    mean: float
    low: float
    high: float


def mean_over_prompts(
    numbers: np.ndarray, prompt_ids: np.ndarray, settings: EvaluationConfig, seed: int = 0
) -> Estimate:
    """E_x E_{y|x} of numbers, one per response; percentile interval from resampling PROMPTS, not responses.

    Responses to one prompt are alike, so resampling them one by one would give intervals that are too narrow.
    """
    _, group = np.unique(prompt_ids, return_inverse=True)
    means_P = np.bincount(group, weights=numbers) / np.bincount(group)
    rng = np.random.default_rng(derive_seed(seed, "bootstrap"))
    draws = rng.integers(len(means_P), size=(settings.bootstrap, len(means_P)))
    tail = (1 - settings.confidence) / 2
    low, high = np.quantile(means_P[draws].mean(axis=1), [tail, 1 - tail])
    return Estimate(float(means_P.mean()), float(low), float(high))


def summarize(
    base: pd.DataFrame,
    tuned: pd.DataFrame,
    solution: DualSolution,
    sd: Mapping[str, float],
    settings: EvaluationConfig,
    seed: int,
) -> dict[str, Any]:
    """Promised and realized, value by value; gap_sd = (realized - target) / sd of the pilot's base scores.

    base, tuned: one row per response, with prompt_id, a column per value, and (tuned) kl.
    """

    def estimate(table: pd.DataFrame, column: str) -> dict[str, float]:
        ids = table["prompt_id"].to_numpy()
        return asdict(mean_over_prompts(table[column].to_numpy(), ids, settings, seed))

    values = {}
    for name, lam in solution.lam.items():
        realized, target = estimate(tuned, name), solution.targets.get(name)
        gap = None if target is None or sd[name] == 0 else (realized["mean"] - target) / sd[name]
        values[name] = {
            "base": estimate(base, name)["mean"],
            "target": target,
            "lam": lam,
            "predicted": solution.realized[name],
            "realized": realized,
            "sd": sd[name],
            "gap_sd": gap,
            "met": None if gap is None else gap >= -settings.tolerance_sd,
        }
    return {
        "values": values,
        "kl_predicted": solution.kl,
        "kl": estimate(tuned, "kl"),
        "prompts": int(tuned["prompt_id"].nunique()),
        "confidence": settings.confidence,
        "tolerance_sd": settings.tolerance_sd,
    }
