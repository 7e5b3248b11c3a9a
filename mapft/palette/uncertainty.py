"""Bootstrap intervals for lambda, the predicted levels and the predicted KL.

Prompts, not rows, are independent, so the bootstrap resamples prompts with all their samples. With b a resample, lam_b
its solution, R and R_b the levels estimated on the pilot and on the resample, and R* the levels of the policy itself:

    lam_b - lam                  is distributed like    lam - lam*            (error of lam)
    R(lam_b) - R_b(lam_b)        is distributed like    R*(lam) - R(lam)      (error of the predicted level)

and likewise for the KL. Source: mapft/palette/README.md, "What is reported".

Legend: V values, P prompts, B resamples.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from mapft.palette.matrix import ScoreMatrix
from mapft.palette.newton import KKT_TOLERANCE
from mapft.palette.partition import Floats
from mapft.palette.problem import Problem
from mapft.palette.solution import DualSolution
from mapft.utils.errors import UserError


@dataclass(frozen=True)
class Interval:
    """An estimate with its standard error and percentile interval, all in the estimate's unit."""

    estimate: float
    se: float
    low: float
    high: float


@dataclass(frozen=True)
class Uncertainty:
    """Bootstrap over prompts. lam in nats per raw unit, predicted in raw units, kl in nats, by value name.

    predicted: an interval for the level R*(lam) of the policy p_lam with the estimated lam.
    failed: resamples on which the palette is infeasible. They are left out, so with many of them the intervals are too
    narrow.
    """

    lam: dict[str, Interval]
    predicted: dict[str, Interval]
    kl: Interval
    level: float
    replications: int
    failed: int

    def to_dict(self) -> dict[str, Any]:
        """Plain dict for JSON."""
        return asdict(self)


def bootstrap(
    matrix: ScoreMatrix, solution: DualSolution, *, replications: int = 400, level: float = 0.95, seed: int = 0
) -> Uncertainty:
    """Percentile intervals for lam, the levels and the KL of p_lam, by resampling prompts.

    solution: optimal, of this matrix. level: nominal coverage. Two calls with the same seed give the same intervals.
    Raises UserError when the solution is not optimal, the level is outside (0, 1), the matrix has one prompt only, or
    the palette is feasible on fewer than two resamples.
    """
    if not 0 < level < 1 or replications < 2:
        raise UserError(
            f"level={level} with replications={replications} is invalid; level must be between 0 and 1 and "
            "replications at least 2."
        )
    problem, rng = Problem.of(matrix, solution), np.random.default_rng(seed)
    problem.require_two_prompts()
    attempts = [_resampled(problem, solution, rng) for _ in range(replications)]
    resamples = [resample for resample in attempts if resample is not None]
    if len(resamples) < 2:
        raise UserError(
            f"the palette is feasible on {len(resamples)} of {replications} resamples of the prompts, too few for an "
            "interval: lower a target with adjust() or sample more prompts."
        )
    lam_BV = np.array([resample.lam_V for resample in resamples]) / problem.frame.scale_V
    shift_BV = np.array([resample.shift_V for resample in resamples]) * problem.frame.scale_V
    return Uncertainty(
        lam={n: _interval(solution.lam[n], lam_BV[:, i], level) for i, n in enumerate(matrix.values)},
        predicted={
            n: _interval(solution.predicted[n], solution.predicted[n] + shift_BV[:, i], level)
            for i, n in enumerate(matrix.values)
        },
        kl=_interval(solution.kl, solution.kl + np.array([resample.kl_shift for resample in resamples]), level),
        level=level,
        replications=replications,
        failed=replications - len(resamples),
    )


class _Resample(NamedTuple):
    """lam_b, R(lam_b) - R_b(lam_b), and the same difference for the KL; standardised."""

    lam_V: Floats
    shift_V: Floats
    kl_shift: float


def _resampled(problem: Problem, solution: DualSolution, rng: np.random.Generator) -> _Resample | None:
    """The dual solved on prompts sampled with replacement; None when the palette is infeasible on them."""
    sizes_P = problem.matrix.groups.sizes
    weights_P = rng.multinomial(len(sizes_P), np.full(len(sizes_P), 1 / len(sizes_P))) * sizes_P
    partition = problem.partition.reweighted(weights_P / weights_P.sum())
    iterate = problem.maximise_dual(problem.target(solution.targets), problem.lam(solution.lam), partition)
    if iterate.kkt_residual > KKT_TOLERANCE:
        return None
    tilt = problem.partition.tilt(iterate.lam_V)
    shift_V = problem.partition.mean(tilt) - iterate.predicted_V
    return _Resample(iterate.lam_V, shift_V, float(iterate.lam_V @ shift_V - (tilt.log_z - iterate.tilt.log_z)))


def _interval(estimate: float, numbers_B: Floats, level: float) -> Interval:
    # "weibull" gives the k-th of B numbers the probability k / (B + 1), for a coverage of `level` and not slightly less
    low, high = np.quantile(numbers_B, [(1 - level) / 2, (1 + level) / 2], method="weibull")
    return Interval(estimate, float(numbers_B.std(ddof=1)), float(low), float(high))
