"""Standard errors by the delta method, and the number of samples that a wanted precision takes (method section 4).

Row n of prompt x has the influence phi_xk on the realized level: what it adds, in mean 0, to the estimate at fixed lam.
With psi_x = mean_k phi_xk and V_AA the covariance of the active values under p_lam,

    truly realized - promised level = - mean_x psi_x              error of lam_A = - V_AA^-1 mean_x psi_x,A

to first order. Splitting Var(phi) into B between and W within prompts, P prompts with K samples each give

    se^2 = (B + W / K) / P

Legend: N rows, P prompts, V values, A active values (lam_i > 0).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from mapft.errors import UserError
from mapft.palette.matrix import RewardMatrix
from mapft.palette.partition import Floats
from mapft.palette.problem import Problem
from mapft.palette.solution import DualSolution


@dataclass(frozen=True)
class StandardErrors:
    """First-order standard errors over prompts, raw units, by value name; those of lam are 0 for inactive values."""

    lam: dict[str, float]
    realized: dict[str, float]


@dataclass(frozen=True)
class SamplePlan:
    """A pilot of `prompts` prompts with `samples_per_prompt` samples each, `rows` in all."""

    samples_per_prompt: int
    prompts: int
    rows: int


def standard_errors(matrix: RewardMatrix, solution: DualSolution) -> StandardErrors:
    """Delta-method standard errors of lam and of the truly realized levels of an optimal solution.

    Cheap beside `bootstrap`, and equal to it in large pilots. Raises UserError when the solution is not optimal.
    """
    return errors_of(Problem.of(matrix, solution), solution)


def errors_of(problem: Problem, solution: DualSolution) -> StandardErrors:
    """`standard_errors` of the solution of a problem that is at hand."""
    problem.refuse_one_prompt()
    lam_V = problem.lam(solution.lam)
    tilt = problem.partition.tilt(lam_V)
    psi_VP = _prompt_means(problem, problem.partition.influence(tilt)) * _prompt_shares(problem)
    active = np.flatnonzero(lam_V > 0)
    covariance_AA = problem.partition.covariance(tilt)[np.ix_(active, active)]
    lam_se_V = np.zeros(len(lam_V))
    lam_se_V[active] = np.linalg.norm(np.linalg.pinv(covariance_AA, hermitian=True) @ psi_VP[active], axis=1)
    return StandardErrors(
        lam=problem.named(lam_se_V / problem.frame.scale_V),
        realized=problem.named(np.linalg.norm(psi_VP, axis=1) * problem.frame.scale_V),
    )


def required_samples(
    matrix: RewardMatrix,
    solution: DualSolution,
    half_width: float,
    *,
    samples_per_prompt: Sequence[int] = (2, 4, 8, 16, 32),
    level: float = 0.95,
) -> tuple[SamplePlan, ...]:
    """Pilots that pin every palette value's realized level to +- half_width sd at the given confidence level.

    P = z^2 (B + W / K) / half_width^2 for the value that needs most, one plan per K in `samples_per_prompt`; B and W
    come from this pilot, whose prompts need two samples or more to tell them apart. The first plan has the fewest rows.
    Raises UserError for a half-width that is not positive, or a pilot with one sample per prompt.
    """
    if not half_width > 0 or not 0 < level < 1:
        raise UserError(
            f"half_width {half_width} sd at level {level} cannot be reached: use for example 0.05 and 0.95."
        )
    least = 1 if solution.estimator == "pooled" else 2
    if min(samples_per_prompt, default=0) < least:
        raise UserError(
            f"samples_per_prompt {tuple(samples_per_prompt)} holds a pilot that the {solution.estimator} estimator "
            f"cannot use: name numbers of {least} or more."
        )
    problem = Problem.of(matrix, solution)
    problem.refuse_one_prompt()
    if (matrix.groups.sizes < 2).any():
        raise UserError(
            "the pilot has prompts with one sample only, so it cannot tell the spread between prompts from the spread "
            "within them: plan from a pilot with two or more samples per prompt."
        )
    held = matrix.index(list(solution.targets))
    between_V, within_V = _variance_components(problem, solution)
    quantile = NormalDist().inv_cdf((1 + level) / 2)
    plans = []
    for samples in samples_per_prompt:
        variance = float((between_V + within_V / samples)[held].max())
        prompts = max(math.ceil(quantile**2 * variance / half_width**2), 2)
        plans.append(SamplePlan(samples, prompts, samples * prompts))
    return tuple(sorted(plans, key=lambda plan: plan.rows))


def _variance_components(problem: Problem, solution: DualSolution) -> tuple[Floats, Floats]:
    """B and W (V,) in sd^2: analysis of variance of the rows' influence, one factor."""
    sizes_P = problem.matrix.groups.sizes
    phi_VN = problem.partition.influence(problem.partition.tilt(problem.lam(solution.lam)))
    if problem.estimator == "centered":
        # the K deviations of a prompt sum to 0, so to first order their inflation sqrt(K / (K - 1)) adds no noise
        phi_VN -= problem.partition.points_VN * np.repeat(1 - np.sqrt(1 - 1 / sizes_P), sizes_P)
    psi_VP = _prompt_means(problem, phi_VN)
    residual_VN = phi_VN - np.repeat(psi_VP, sizes_P, axis=1)
    within_V = (residual_VN**2).sum(axis=1) / (len(problem.matrix) - len(sizes_P))
    between_V = psi_VP.var(axis=1, ddof=1) - within_V * (1 / sizes_P).mean()
    return np.maximum(between_V, 0.0), within_V


def _prompt_means(problem: Problem, numbers_VN: Floats) -> Floats:
    groups = problem.matrix.groups
    return np.add.reduceat(numbers_VN, groups.starts, axis=1) / groups.sizes


def _prompt_shares(problem: Problem) -> Floats:
    return problem.matrix.groups.sizes / len(problem.matrix)
