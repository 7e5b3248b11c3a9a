"""Realized levels on held-out prompts, with intervals; every policy against the base policy.

Shapes: P prompts, K responses of one policy to a prompt.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from mapft.config import EvaluationConfig
from mapft.palette import DualSolution
from mapft.rewards.diversity import DiversityScore
from mapft.seeding import derive_seed

DISTINCT = DiversityScore(measure="distinct", orders=(2,), template="{response}")
BASE, TUNED = "base", "tuned"
BLOCK = 1 << 22  # numbers resampled at a time


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
    return resampled(np.bincount(group, weights=numbers) / np.bincount(group), settings, seed)


def resampled(means_P: np.ndarray, settings: EvaluationConfig, seed: int = 0) -> Estimate:
    """The mean of one number per prompt (two or more), with the percentile interval of its bootstrap.

    Widened by t_{P-1} / z * sqrt(P / (P - 1)), without which few prompts give intervals that cover too little.
    """
    prompts, mean = len(means_P), float(means_P.mean())
    rng = np.random.default_rng(derive_seed(seed, "bootstrap"))
    rows = max(1, BLOCK // prompts)
    sizes = [min(rows, settings.bootstrap - done) for done in range(0, settings.bootstrap, rows)]
    drawn = np.concatenate([means_P[rng.integers(prompts, size=(size, prompts))].mean(axis=1) for size in sizes])
    tail = (1 - settings.confidence) / 2
    wider = stats.t.ppf(1 - tail, prompts - 1) / stats.norm.ppf(1 - tail) * (prompts / (prompts - 1)) ** 0.5
    low, high = mean + wider * (np.quantile(drawn, [tail, 1 - tail]) - mean)
    return Estimate(mean, float(low), float(high))


def win_rate(policy: pd.DataFrame, base: pd.DataFrame, value: str, settings: EvaluationConfig, seed: int) -> Estimate:
    """E_x P(r(x,y) > r(x,y0)) + P(=) / 2 for independent y ~ policy, y0 ~ base; over all pairs of each prompt."""
    against = {prompt: rows.to_numpy() for prompt, rows in base.groupby("prompt_id")[value]}
    wins_P = [
        (np.sign(rows.to_numpy()[:, None] - against[prompt]).mean() + 1) / 2
        for prompt, rows in policy.groupby("prompt_id")[value]
    ]
    return resampled(np.array(wins_P), settings, seed)


def describe(
    policy: pd.DataFrame, base: pd.DataFrame, values: list[str], settings: EvaluationConfig, seed: int
) -> dict[str, Any]:
    """One policy in numbers, each an Estimate: levels and win_rate by value, kl, tokens, distinct_2, truncated.

    policy, base: one row per response, with prompt_id, response, tokens, finished, kl (nats; 0 for the base) and a
    column per value. distinct_2: unique word pairs / word pairs of a response. truncated: share that ran into the
    length limit.
    """
    ids = policy["prompt_id"].to_numpy()

    def estimate(numbers: Any) -> dict[str, float]:
        return asdict(mean_over_prompts(np.asarray(numbers, dtype=float), ids, settings, seed))

    return {
        "levels": {name: estimate(policy[name]) for name in values},
        "win_rate": {name: asdict(win_rate(policy, base, name, settings, seed)) for name in values},
        "kl": estimate(policy["kl"]),
        "tokens": estimate(policy["tokens"]),
        "distinct_2": estimate(DISTINCT.score(policy["prompt"].tolist(), policy["response"].tolist())),
        "truncated": estimate(~policy["finished"].astype(bool)),
        "responses": len(policy),
    }


def summarize(
    policies: Mapping[str, pd.DataFrame],
    solution: DualSolution,
    sd: Mapping[str, float],
    settings: EvaluationConfig,
    seed: int,
) -> dict[str, Any]:
    """Promised and realized, value by value; gap_sd = (realized - target) / sd of the pilot's base scores.

    policies: the tables of `describe` by name, "base" and "tuned" among them; the promise is judged on "tuned".
    """
    base, names = policies[BASE], list(solution.lam)
    described = {name: describe(table, base, names, settings, seed) for name, table in policies.items()}
    tuned = described[TUNED]
    values = {}
    for name, lam in solution.lam.items():
        realized, target = tuned["levels"][name], solution.targets.get(name)
        gap = None if target is None or sd[name] == 0 else (realized["mean"] - target) / sd[name]
        values[name] = {
            "base": described[BASE]["levels"][name]["mean"],
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
        "policies": described,
        "kl_predicted": solution.kl,
        "kl": tuned["kl"],
        "prompts": int(policies[TUNED]["prompt_id"].nunique()),
        "confidence": settings.confidence,
        "tolerance_sd": settings.tolerance_sd,
    }
