"""Realized levels on held-out prompts, with intervals.

Shapes: P prompts, R bootstrap resamples.
"""

from dataclasses import dataclass

import numpy as np

from mapft.config import EvaluationConfig
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
