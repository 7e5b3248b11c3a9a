"""Multipliers from rollouts instead of base samples.

`estimate` needs log pi/p_ref of every rollout. For ANY policy pi with full support, E_{p_ref} f = E_pi [f p_ref/pi], so

    lam = argmax_{lam >= 0}  (lam - mu).c - E_x log E_{y~pi} exp((lam - mu).r - log pi/p_ref)

is the solution of the palette, whether or not pi has reached p_lam; mu are the multipliers of p_ref (0 for p0). Close
to p_lam the exponent is nearly constant over the responses to a prompt. The estimate is then more precise than the
pilot's, and the `centered` estimator, biased where prompts have different distributions of scores, is nearly unbiased.

`increment` takes the levels of the rollouts themselves, as if pi were p_lam:

    delta = argmax_{delta >= -lam}  delta.c - E_x log E_{y~pi} exp(delta.r);    lam <- lam + delta

It is exact coordinate ascent in sequential mode, where pi is the reference of the next visit. In any other use it also
makes up for a policy that is short of p_lam.
Source: mapft/palette/README.md, "Refinement on policy"; `increment` for one value: paper, equation 9.

Legend: N rollouts, P prompts, V values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mapft.palette.estimators import Estimator
from mapft.palette.matrix import ScoreMatrix
from mapft.palette.newton import KKT_TOLERANCE
from mapft.palette.palette import Palette
from mapft.palette.partition import Floats
from mapft.palette.precision import delta_method
from mapft.palette.problem import Problem

MIN_ESS_SHARE = 0.5  # of the rollouts; a larger increment extrapolates too far from them
MIN_ESTIMATE_SHARE = 0.1  # of the rollouts; with less, a few weights decide, and the standard error is unreliable
MAX_HALVINGS = 20
LOG_RATIO = "log pi/p_ref"  # column beside the values


@dataclass(frozen=True)
class OnPolicyEstimate:
    """Multipliers in nats per raw unit, and their standard errors over prompts, by value name.

    The standard error is 0 where lam is 0 or was not estimated.
    ess: effective share of the rollouts under p_lam/pi; 1 where pi is p_lam.
    """

    lam: dict[str, float]
    standard_error: dict[str, float]
    ess: float


def estimate(
    rollouts: ScoreMatrix,
    log_ratio_N: Floats,
    palette: Palette,
    lam: Mapping[str, float],
    reference_lam: Mapping[str, float],
) -> OnPolicyEstimate | None:
    """The multipliers of the palette; None where its targets are infeasible on the rollouts, or too few are effective.

    log_ratio_N: log pi/p_ref of each rollout in nats, for the policy that generated it. Every prompt has two rollouts
    or more. A value without a target, and one whose scores are constant within every prompt, keeps its lam.
    """
    columns = np.column_stack([rollouts.scores, log_ratio_N])
    table = ScoreMatrix(columns, [*rollouts.values, LOG_RATIO], rollouts.prompt_ids)
    problem = Problem(table, "centered")
    constant_V = (problem.partition.points_VN == 0).all(axis=1)
    target_V = np.where(constant_V, -np.inf, problem.target(palette.targets))
    solved_V = np.isfinite(target_V)
    lam_V = problem.lam(dict(lam) | {LOG_RATIO: -1.0})
    mu_V = problem.lam(dict(reference_lam) | {LOG_RATIO: 0.0})
    offset_V = np.where(solved_V, 0.0, lam_V) - mu_V
    start_V = np.where(solved_V, lam_V, 0.0)
    solution = problem.maximise_dual(target_V, start_V, problem.partition.tilted(offset_V))
    if not solution.kkt_residual <= KKT_TOLERANCE or solution.tilt.ess < MIN_ESTIMATE_SHARE * len(rollouts):
        return None
    found_V = np.where(solved_V, solution.lam_V, lam_V)
    error_V, _ = delta_method(problem, found_V - mu_V, solved_V & (solution.lam_V > 0))
    by_name = (problem.named(numbers_V / problem.frame.scale_V) for numbers_V in (found_V, error_V))
    new_lam, error = ({name: numbers[name] for name in rollouts.values} for numbers in by_name)
    return OnPolicyEstimate(new_lam, error, solution.tilt.ess / len(rollouts))


@dataclass(frozen=True)
class Increment:
    """One increment; every dict is keyed by value name.

    lam: the new multipliers, nats per raw unit, >= 0. delta: lam minus the old one, exactly 0 for a free value.
    share: the share of the distance from the rollouts' levels to the targets that delta covers; 0 if lam is unchanged
    because the rollouts allow no step. ess: effective number of rollouts under exp(delta.r).
    """

    lam: dict[str, float]
    delta: dict[str, float]
    share: float
    ess: float


def increment(rollouts: ScoreMatrix, palette: Palette, lam: Mapping[str, float]) -> Increment:
    """lam + delta for the policy that was trained towards lam and generated the rollouts.

    Where the targets are infeasible on the rollouts, or fewer than half of the rollouts would stay effective, the share
    of the distance to the targets is halved until the step is possible. The estimator is `centered` if every prompt has
    two rollouts or more, else `pooled`. `pooled` also re-weights prompts, so its steps are shorter; both have delta = 0
    for the same levels.
    Source: mapft/palette/README.md, "Refinement on policy".
    """
    estimator: Estimator = "centered" if (rollouts.groups.sizes > 1).all() else "pooled"
    problem = Problem(rollouts, estimator)
    target_V, lam_V = problem.target(palette.targets), problem.lam(lam)
    constant_V = (problem.partition.points_VN == 0).all(axis=1)  # within every prompt: no policy changes the level
    target_V = np.where(constant_V, -np.inf, target_V)
    old_lam_V = np.where(np.isfinite(target_V), lam_V, 0.0)
    base = problem.partition.tilted(-old_lam_V)  # on it the multipliers are lam + delta, so that lam + delta >= 0
    for share in 0.5 ** np.arange(MAX_HALVINGS):
        iterate = problem.maximise_dual(_at_share(target_V, share), lam_V, base)
        if iterate.kkt_residual <= KKT_TOLERANCE and iterate.tilt.ess >= MIN_ESS_SHARE * len(rollouts):
            new_V = np.where(np.isfinite(target_V), iterate.lam_V, lam_V)
            delta = problem.named((new_V - lam_V) / problem.frame.scale_V)
            return Increment(problem.named(new_V / problem.frame.scale_V), delta, float(share), iterate.tilt.ess)
    return Increment(dict(lam), dict.fromkeys(rollouts.values, 0.0), 0.0, float(len(rollouts)))


def _at_share(target_V: Floats, share: float) -> Floats:
    """Targets, in sd above the rollouts' levels, at a share of their distance; free values stay free."""
    return np.where(np.isfinite(target_V), share * target_V, target_V)
