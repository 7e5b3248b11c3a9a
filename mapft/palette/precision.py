"""Standard errors by the delta method, and the number of prompts that a precision needs.

Row k of prompt x has the influence phi_xk, of mean 0, on the predicted level R(lam) at fixed lam. With
psi_x = mean_k phi_xk and V_AA the covariance of the active values under p_lam,

    E_{p_lam} r - R(lam) = - mean_x psi_x              lam*_A - lam_A = V_AA^-1 mean_x psi_x,A

to first order, so standard errors fall with the square root of the number of prompts.
Source: mapft/palette/README.md, "What is reported".

Legend: N rows, P prompts, V values, A active values (lam_i > 0).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from mapft.palette.matrix import ScoreMatrix
from mapft.palette.partition import Floats
from mapft.palette.problem import Problem
from mapft.palette.solution import DualSolution
from mapft.utils.errors import UserError

Z95 = NormalDist().inv_cdf(0.975)  # half of a 95 % interval, in standard errors


@dataclass(frozen=True)
class StandardErrors:
    """First-order standard errors over prompts, raw units, by value name; those of lam are 0 for inactive values."""

    lam: dict[str, float]
    predicted: dict[str, float]

    def required_prompts(
        self, matrix: ScoreMatrix, solution: DualSolution, half_width: float, *, level: float = 0.95
    ) -> int:
        """Prompts for which the predicted level of every target has an interval of at most +- half_width sd.

            P' = P (z se_i / (half_width sd_i))^2    for the target that needs most, z the normal quantile of `level`

        with as many samples per prompt as in the matrix, which has P prompts. At least 2.
        Raises UserError for a half-width that is not positive or a level outside (0, 1).
        """
        if not half_width > 0 or not 0 < level < 1:
            raise UserError(
                f"half_width={half_width} with level={level} is invalid; half_width must be above 0 and "
                "level between 0 and 1."
            )
        quantile = NormalDist().inv_cdf((1 + level) / 2)
        widest = max(quantile * self.predicted[name] / matrix.sd[name] for name in solution.targets if matrix.sd[name])
        return max(math.ceil(len(matrix.groups.sizes) * (widest / half_width) ** 2), 2)


def standard_errors(matrix: ScoreMatrix, solution: DualSolution) -> StandardErrors:
    """Delta-method standard errors of lam and of the predicted levels of an optimal solution.

    Much cheaper than `bootstrap`, and equal to it for large pilots. Raises UserError when the solution is not optimal
    or the matrix has one prompt only.
    """
    return errors_of(Problem.of(matrix, solution), solution)


def errors_of(problem: Problem, solution: DualSolution) -> StandardErrors:
    """`standard_errors` for a problem that is already built."""
    problem.require_two_prompts()
    lam_V = problem.lam(solution.lam)
    lam_se_V, predicted_se_V = delta_method(problem, lam_V, lam_V > 0)
    return StandardErrors(
        lam=problem.named(lam_se_V / problem.frame.scale_V),
        predicted=problem.named(predicted_se_V * problem.frame.scale_V),
    )


def delta_method(problem: Problem, lam_V: Floats, active_V: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Standard errors of the multipliers, 0 where inactive, and of the predicted levels, per sd and in sd."""
    partition, groups = problem.partition, problem.matrix.groups
    tilt = partition.tilt(lam_V)
    share_P = groups.sizes / len(problem.matrix)
    psi_VP = np.add.reduceat(partition.influence(tilt), groups.starts, axis=1) / groups.sizes * share_P
    active = np.flatnonzero(active_V)
    covariance_AA = partition.covariance(tilt)[np.ix_(active, active)]
    lam_se_V = np.zeros(len(lam_V))
    lam_se_V[active] = np.linalg.norm(np.linalg.pinv(covariance_AA, hermitian=True) @ psi_VP[active], axis=1)
    return lam_se_V, np.linalg.norm(psi_VP, axis=1)
