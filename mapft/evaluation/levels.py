"""Realized levels on held-out prompts, with intervals; every policy against the base policy.

Shapes: P prompts, K responses of one policy to a prompt.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from mapft.config import BASE, TUNED, EvaluationConfig
from mapft.evaluation.result import Estimate, PolicyResult, ValueResult
from mapft.palette import DualSolution
from mapft.rewards.diversity import DiversityMeasure, DiversityScore
from mapft.utils.seeds import derive_seed

DISTINCT_2 = DiversityScore(measure=DiversityMeasure.distinct, orders=(2,), template="{response}")
BLOCK = 1 << 22  # numbers that are resampled at a time


def mean_over_prompts(
    numbers: np.ndarray, prompt_ids: np.ndarray, settings: EvaluationConfig, seed: int = 0
) -> Estimate:
    """E_x E_{y|x} of one number per response, with the percentile interval of a bootstrap over prompts.

    Responses to one prompt are dependent, so a bootstrap over responses would give intervals that are too narrow.
    """
    _, group = np.unique(prompt_ids, return_inverse=True)
    return resampled(np.bincount(group, weights=numbers) / np.bincount(group), settings, seed)


def resampled(means_P: np.ndarray, settings: EvaluationConfig, seed: int = 0) -> Estimate:
    """The mean of one number per prompt (P >= 2), with the percentile interval of its bootstrap."""
    prompts, mean = len(means_P), float(means_P.mean())
    rng = np.random.default_rng(derive_seed(seed, "bootstrap"))
    rows = max(1, BLOCK // prompts)
    sizes = [min(rows, settings.bootstrap - done) for done in range(0, settings.bootstrap, rows)]
    resamples = np.concatenate([means_P[rng.integers(prompts, size=(size, prompts))].mean(axis=1) for size in sizes])
    tail = (1 - settings.confidence) / 2
    widening = small_sample_widening(prompts, settings.confidence)
    low, high = mean + widening * (np.quantile(resamples, [tail, 1 - tail]) - mean)
    return Estimate(mean, float(low), float(high))


def small_sample_widening(prompts: int, confidence: float) -> float:
    """t_{P-1} / z * sqrt(P / (P - 1)): without it, percentile intervals of few prompts cover too little."""
    tail = (1 - confidence) / 2
    return float(stats.t.ppf(1 - tail, prompts - 1) / stats.norm.ppf(1 - tail) * (prompts / (prompts - 1)) ** 0.5)


def win_rate(policy: pd.DataFrame, base: pd.DataFrame, value: str, settings: EvaluationConfig, seed: int) -> Estimate:
    """E_x [P(r(x,y) > r(x,y0)) + P(r(x,y) = r(x,y0)) / 2], y ~ policy, y0 ~ base, over all pairs of a prompt."""
    base_scores = {prompt: rows.to_numpy() for prompt, rows in base.groupby("prompt_id")[value]}
    wins_P = [
        (np.sign(rows.to_numpy()[:, None] - base_scores[prompt]).mean() + 1) / 2
        for prompt, rows in policy.groupby("prompt_id")[value]
    ]
    return resampled(np.array(wins_P), settings, seed)


def describe(
    policy: pd.DataFrame, base: pd.DataFrame, values: list[str], settings: EvaluationConfig, seed: int
) -> PolicyResult:
    """Levels, win rates against the base policy, KL and statistics of one policy's responses.

    policy, base: one row per response, with prompt_id, prompt, response, tokens, finished, kl (nats; 0 for the base)
    and a column per value.
    """
    ids = policy["prompt_id"].to_numpy()

    def estimate(numbers: Any) -> Estimate:
        return mean_over_prompts(np.asarray(numbers, dtype=float), ids, settings, seed)

    return PolicyResult(
        levels={name: estimate(policy[name]) for name in values},
        win_rate={name: win_rate(policy, base, name, settings, seed) for name in values},
        kl=estimate(policy["kl"]),
        tokens=estimate(policy["tokens"]),
        distinct_2=estimate(DISTINCT_2.score(policy["prompt"].tolist(), policy["response"].tolist())),
        truncated=estimate(~policy["finished"].astype(bool)),
        responses=len(policy),
    )


def summarize(
    tables: Mapping[str, pd.DataFrame],
    solution: DualSolution,
    sd: Mapping[str, float],
    settings: EvaluationConfig,
    seed: int,
) -> tuple[dict[str, ValueResult], dict[str, PolicyResult]]:
    """Predicted and realized levels by value, and every policy by name.

    tables: responses of each policy, as in `describe`; base and tuned are among them. Whether a target is met is
    decided by the tuned policy. sd: of the pilot's base scores.
    """
    policies = {
        name: describe(table, tables[BASE], list(solution.lam), settings, seed) for name, table in tables.items()
    }
    values = {}
    for name, lam in solution.lam.items():
        realized, target = policies[TUNED].levels[name], solution.targets.get(name)
        gap = None if target is None or sd[name] == 0 else (realized.mean - target) / sd[name]
        values[name] = ValueResult(
            base=policies[BASE].levels[name].mean,
            target=target,
            lam=lam,
            predicted=solution.predicted[name],
            realized=realized,
            sd=sd[name],
            gap_sd=gap,
            met=None if gap is None else gap >= -settings.tolerance_sd,
        )
    return values, policies
