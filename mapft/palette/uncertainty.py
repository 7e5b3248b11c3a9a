"""How far lambda and the promised levels can be trusted (method section 4).

Prompts, not rows, are the independent draws, so the bootstrap resamples prompts with all their samples. With b a
resample, lam_b its solution, R_b and R the realized levels estimated on it and on the full pilot:

    lam_b - lam                  is distributed like    lam - lam*                 (error of lam)
    R(lam_b) - R_b(lam_b)        is distributed like    R_true(lam) - R(lam)       (truly realized minus promised)

and likewise for the KL.

Legend: V values, P prompts, B replications, H values held by the palette.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from mapft.errors import UserError
from mapft.palette.matrix import RewardMatrix
from mapft.palette.newton import CONVERGED
from mapft.palette.partition import Floats
from mapft.palette.problem import Problem
from mapft.palette.solution import DualSolution


@dataclass(frozen=True)
class Interval:
    """An estimate with its standard error and percentile interval, all in the estimate's unit."""

    estimate: float
    se: float
    low: float
    high: float


@dataclass(frozen=True)
class Uncertainty:
    """Bootstrap over prompts. lam in nats per raw unit, realized in raw units, kl in nats, by value name.

    realized: the level that the policy p_lam, with the lam that was found, truly realizes.
    failed: resamples on which the palette was not attainable; they are left out, and many of them mean that the
    intervals are too narrow.
    """

    lam: dict[str, Interval]
    realized: dict[str, Interval]
    kl: Interval
    level: float
    replications: int
    failed: int

    def to_dict(self) -> dict[str, Any]:
        """Plain dict for JSON."""
        return asdict(self)


def bootstrap(
    matrix: RewardMatrix, solution: DualSolution, *, replications: int = 400, level: float = 0.95, seed: int = 0
) -> Uncertainty:
    """Intervals for lam (percentile), for the levels and the KL that p_lam truly has, resampling prompts.

    solution: optimal, of this matrix. level: nominal coverage. Two calls with one seed agree exactly.
    Raises UserError when the solution is not optimal, the level is outside (0, 1), or too few resamples can keep the
    palette. Source: method section 4.
    """
    if not 0 < level < 1 or replications < 2:
        raise UserError(f"level {level} with {replications} replications gives no interval: use 0.95 and 400.")
    problem, rng = Problem.of(matrix, solution), np.random.default_rng(seed)
    problem.refuse_one_prompt()
    draws = [_replicate(problem, solution, rng) for _ in range(replications)]
    kept = [draw for draw in draws if draw is not None]
    if len(kept) < 2:
        raise UserError(
            f"the palette is attainable on {len(kept)} of {replications} resamples of the prompts, too few for an "
            "interval: lower a target with adjust() or sample more prompts."
        )
    lam_BV = np.array([draw.lam_V for draw in kept]) / problem.frame.scale_V
    shift_BV = np.array([draw.shift_V for draw in kept]) * problem.frame.scale_V
    return Uncertainty(
        lam={n: _interval(solution.lam[n], lam_BV[:, i], level) for i, n in enumerate(matrix.values)},
        realized={
            n: _interval(solution.realized[n], solution.realized[n] + shift_BV[:, i], level)
            for i, n in enumerate(matrix.values)
        },
        kl=_interval(solution.kl, solution.kl + np.array([draw.kl_shift for draw in kept]), level),
        level=level,
        replications=replications,
        failed=replications - len(kept),
    )


class _Draw(NamedTuple):
    """One resample: its lam, and by how much levels and KL of p_lam on the full pilot exceed those on the resample."""

    lam_V: Floats
    shift_V: Floats
    kl_shift: float


def _replicate(problem: Problem, solution: DualSolution, rng: np.random.Generator) -> _Draw | None:
    """Solve the dual with every prompt weighing as often as it is drawn; None when that palette is not attainable."""
    sizes_P = problem.matrix.groups.sizes
    weights_P = rng.multinomial(len(sizes_P), np.full(len(sizes_P), 1 / len(sizes_P))) * sizes_P
    resample = problem.partition.reweighted(weights_P / weights_P.sum())
    ascent = problem.ascend(problem.target(solution.targets), problem.lam(solution.lam), resample)
    if ascent.kkt_residual > CONVERGED:
        return None
    tilt = problem.partition.tilt(ascent.lam_V)
    shift_V = problem.partition.mean(tilt) - ascent.realized_V
    return _Draw(ascent.lam_V, shift_V, float(ascent.lam_V @ shift_V - (tilt.log_z - ascent.tilt.log_z)))


def _interval(estimate: float, numbers_B: Floats, level: float) -> Interval:
    # "weibull" puts the k-th of B draws at k / (B + 1), so that the interval covers `level` and not a little less
    low, high = np.quantile(numbers_B, [(1 - level) / 2, (1 + level) / 2], method="weibull")
    return Interval(estimate, float(numbers_B.std(ddof=1)), float(low), float(high))
