"""Has the tuned policy pi reached p_lam, and how much KL does it spend on its levels?

    KL to p_lam    E_x KL(pi || p_lam) = E_x log E_{y~pi} exp(u) - E u,        u = lam.r - log pi/p0
                                       = E_x log E_{y~p0} exp(lam.r) - E u
    price ratio    KL(pi || p0) / min { KL(p || p0) : E_p r_i >= E_pi r_i for every value i with a target }

KL to p_lam is 0 exactly where pi = p_lam; the price ratio is 1 for the p_lam of any lam. Neither depends on whether
the levels are met. E_x log E is the `centered` estimator, so each needs two responses per prompt or more. Intervals
resample prompts. log pi/p0 is that of the full distributions: with sampling.top_k or top_p both are approximations.
Source: mapft/palette/README.md, "Convergence and price ratio".

Legend: P prompts, N responses.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.special import logsumexp

from mapft.config import EvaluationConfig
from mapft.evaluation.levels import small_sample_widening
from mapft.evaluation.result import Estimate
from mapft.palette import ScoreMatrix
from mapft.palette.newton import KKT_TOLERANCE
from mapft.palette.partition import Floats
from mapft.palette.problem import Problem
from mapft.utils.seeds import derive_seed

PRICE_RESAMPLES = 400  # each solves a dual


def kl_to_target(
    base: pd.DataFrame, tuned: pd.DataFrame, lam: Mapping[str, float], settings: EvaluationConfig, seed: int
) -> Estimate | None:
    """E_x KL(pi(.|x) || p_lam(.|x)) in nats; None with one response to a prompt.

    base, tuned: responses to the same prompts, with prompt_id, a column per value and, in tuned, kl = log pi/p0.
    log Z is estimated from p0, as the dual does it, and from pi, whose weights are nearly constant close to p_lam.
    Either is too low where it misses responses that are probable under p_lam (a collapsed pi, a p0 far from p_lam). So
    the estimate from pi, the more precise one, counts unless it is below the interval of that from p0.
    """
    lam_V = pd.Series(dict(lam))
    reward = _log_mean_exp(base[list(lam)] @ lam_V, base["prompt_id"])
    log_weight = _log_mean_exp(tuned[list(lam)] @ lam_V - tuned["kl"], tuned["prompt_id"])
    if reward is None or log_weight is None:
        return None

    def estimate(log_z: _LogMeanExp) -> Estimate:
        shift_P = log_z.mean_P - log_weight.mean_P

        def kl(share_P: Floats) -> float:
            return float(share_P @ shift_P + logsumexp(log_z.log_exp_P, b=share_P))

        return _resampled(kl, len(shift_P), settings.bootstrap, settings.confidence, seed)

    from_base, from_tuned = estimate(reward), estimate(log_weight)
    return from_base if from_tuned.mean < from_base.low else from_tuned


def price_ratio(
    base: pd.DataFrame, tuned: pd.DataFrame, values: Iterable[str], settings: EvaluationConfig, seed: int
) -> Estimate | None:
    """KL(pi || p0) / the least KL that has pi's levels, by the dual on the responses of p0 to the same prompts.

    values: those with a target. None where there is no such number: one response to a prompt, no value above its base
    level, or levels beyond what re-weighted base responses can have (on more resamples than the interval leaves out).
    """
    values = list(values)
    if not values:
        return None
    matrix = ScoreMatrix(base[values].to_numpy(float), values, base["prompt_id"].to_numpy())
    if matrix.groups.sizes.min() < 2:
        return None
    problem = Problem(matrix, "centered")
    means = tuned.groupby("prompt_id")[[*values, "kl"]].mean()
    levels_PV, kl_P = means[values].to_numpy(float), means["kl"].to_numpy(float)
    sizes_P, start_V = matrix.groups.sizes, np.zeros(len(values))

    def ratio(share_P: Floats) -> float:
        nonlocal start_V
        target_V = problem.target(dict(zip(values, share_P @ levels_PV, strict=True)))
        if np.isposinf(target_V).any():
            return math.inf
        weights_P = share_P * sizes_P
        least = problem.maximise_dual(target_V, start_V, problem.partition.reweighted(weights_P / weights_P.sum()))
        if least.kkt_residual > KKT_TOLERANCE or least.dual <= 0:
            return math.inf
        start_V = least.lam_V
        return float(share_P @ kl_P) / least.dual

    estimate = _resampled(ratio, len(kl_P), min(settings.bootstrap, PRICE_RESAMPLES), settings.confidence, seed)
    return estimate if math.isfinite(estimate.mean) and math.isfinite(estimate.high) else None


class _LogMeanExp(NamedTuple):
    """E_x log E_y exp(u) = mean(mean_P) + log mean(exp(log_exp_P)), by prompt."""

    mean_P: Floats
    log_exp_P: Floats


def _log_mean_exp(u_N: pd.Series, prompt_ids: pd.Series) -> _LogMeanExp | None:
    """The `centered` estimator of one number per response, by prompt; None with one response to a prompt."""
    _, group_N, size_P = np.unique(prompt_ids, return_inverse=True, return_counts=True)
    if size_P.min() < 2:
        return None
    mean_P = np.bincount(group_N, u_N) / size_P
    deviation_N = (u_N.to_numpy() - mean_P[group_N]) * np.sqrt(size_P / (size_P - 1))[group_N]
    by_prompt_N, starts_P = np.argsort(group_N, kind="stable"), np.cumsum(size_P) - size_P
    log_exp_P = np.logaddexp.reduceat(deviation_N[by_prompt_N], starts_P) - np.log(size_P)
    return _LogMeanExp(mean_P, log_exp_P)


def _resampled(
    statistic: Callable[[Floats], float], prompts: int, resamples: int, confidence: float, seed: int
) -> Estimate:
    """statistic(share of each prompt) on all prompts, with the percentile interval of a bootstrap over prompts.

    Both numbers are at least 0. The interval is widened for few prompts.
    """
    rng, uniform_P = np.random.default_rng(derive_seed(seed, "convergence")), np.full(prompts, 1 / prompts)
    mean = statistic(uniform_P)
    if not math.isfinite(mean):
        return Estimate(mean, mean, mean)
    numbers_B = [statistic(rng.multinomial(prompts, uniform_P) / prompts) for _ in range(resamples)]
    tail = (1 - confidence) / 2
    low, high = np.quantile(numbers_B, [tail, 1 - tail], method="inverted_cdf")
    widening = small_sample_widening(prompts, confidence)
    low, high = (max(0.0, mean + widening * (float(end) - mean)) for end in (low, high))
    return Estimate(max(0.0, mean), low, high)
