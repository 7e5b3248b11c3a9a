"""Has the tuned policy pi reached p_lam, and how much KL does it spend on its levels?

    KL to p_lam    E_x KL(pi || p_lam) = E_x log Z(x, lam) - E_{y~pi} u,        u = lam.r - log pi/p0
    price ratio    KL(pi || p0) / min { KL(p || p0) : E_p r_i >= E_pi r_i for every value i with a target }

KL to p_lam is 0 exactly where pi = p_lam; the price ratio is 1 for the p_lam of any lam. Neither depends on whether
the levels are met. Both need E_x log Z, by the `centered` estimator from two or more responses to each prompt: of pi,
as E_x log E_{y~pi} exp(u), because close to p_lam u is nearly constant over the responses to a prompt; or of p0, as
E_x log E_{y~p0} exp(lam.r), where pi does not cover p0 (E_{y~pi} p0/pi, which is 1 where it does, is below
MIN_COVERAGE) or where its weights exp(u) are less even. Intervals resample prompts. log pi/p0 is that of the full
distributions: with sampling.top_k or top_p both are approximations.
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
from mapft.palette.on_policy import LOG_RATIO
from mapft.palette.partition import Floats
from mapft.palette.problem import Problem
from mapft.utils.seeds import derive_seed

MIN_COVERAGE = 0.5
PRICE_RESAMPLES = 400  # each solves a dual


def kl_to_target(
    base: pd.DataFrame, tuned: pd.DataFrame, lam: Mapping[str, float], settings: EvaluationConfig, seed: int
) -> Estimate | None:
    """E_x KL(pi(.|x) || p_lam(.|x)) in nats; None with one response to a prompt.

    base, tuned: responses to the same prompts, with prompt_id, a column per value and, in tuned, kl = log pi/p0.
    """
    lam_V = pd.Series(dict(lam))
    log_weight = _log_mean_exp(tuned[list(lam)] @ lam_V - tuned["kl"], tuned["prompt_id"])
    reward = _log_mean_exp(base[list(lam)] @ lam_V, base["prompt_id"])
    log_z = log_weight if is_closer(base, tuned, lam) else reward
    if log_z is None or log_weight is None:
        return None
    shift_P = log_z.mean_P - log_weight.mean_P

    def kl(share_P: Floats) -> float:
        return float(share_P @ shift_P + logsumexp(log_z.log_exp_P, b=share_P))

    return _resampled(kl, len(shift_P), settings.bootstrap, settings.confidence, seed)


def is_closer(base: pd.DataFrame, tuned: pd.DataFrame, lam: Mapping[str, float]) -> bool:
    """Whether log Z is estimated from pi, and not from p0."""
    lam_V = pd.Series(dict(lam))
    log_coverage = float(logsumexp(-tuned["kl"])) - math.log(len(tuned))
    tuned_share, base_share = (
        _effective_share(table[list(lam)] @ lam_V - table["kl"], table["prompt_id"])
        for table in (tuned, base.assign(kl=0.0))
    )
    return log_coverage >= math.log(MIN_COVERAGE) and tuned_share >= base_share


def _effective_share(u_N: pd.Series, prompt_ids: pd.Series) -> float:
    """(sum w)^2 / (N sum w^2) of w = exp(u - its mean over the responses to the prompt)."""
    deviation_N = u_N - u_N.groupby(prompt_ids).transform("mean")
    return math.exp(2 * logsumexp(deviation_N) - logsumexp(2 * deviation_N)) / len(u_N)


def price_ratio(
    base: pd.DataFrame,
    tuned: pd.DataFrame,
    lam: Mapping[str, float],
    values: Iterable[str],
    settings: EvaluationConfig,
    seed: int,
) -> Estimate | None:
    """KL(pi || p0) / the least KL that has pi's levels, by the dual on responses to the same prompts.

    lam: multipliers that pi was trained towards. values: those with a target. None where there is no such number: one
    response to a prompt, no value above its base level, or levels beyond what re-weighted responses can have (on more
    resamples than the interval leaves out).
    """
    values = list(values)
    if not values or (base.groupby("prompt_id").size() < 2).any() or (tuned.groupby("prompt_id").size() < 2).any():
        return None
    table = tuned if is_closer(base, tuned, lam) else base.assign(kl=0.0)
    columns = [*values, LOG_RATIO]
    matrix = ScoreMatrix(table[[*values, "kl"]].to_numpy(float), columns, table["prompt_id"].to_numpy())
    problem = Problem(matrix, "centered")
    offset_V = problem.lam(dict.fromkeys(values, 0.0) | {LOG_RATIO: -1.0})
    means = tuned.groupby("prompt_id")[[*values, "kl"]].mean()
    levels_PV, kl_P = means[values].to_numpy(float), means["kl"].to_numpy(float)
    base_P = base.groupby("prompt_id")[values].mean().to_numpy(float)
    sizes_P, start_V = matrix.groups.sizes, np.zeros(len(columns))

    def ratio(share_P: Floats) -> float:
        nonlocal start_V
        weights_P = share_P * sizes_P
        partition = problem.partition.reweighted(weights_P / weights_P.sum())
        level_V = share_P @ levels_PV
        target_V = problem.target(dict(zip(values, level_V, strict=True)))
        if np.isposinf(target_V).any() or (level_V <= share_P @ base_P).all():
            return math.inf
        best = problem.maximise_dual(target_V, start_V, partition.tilted(offset_V))
        least = best.dual - partition.tilt(offset_V).log_z + problem.frame.base_V[-1]
        if best.kkt_residual > KKT_TOLERANCE or least <= 0:
            return math.inf
        start_V = best.lam_V
        return float(share_P @ kl_P / least)

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
