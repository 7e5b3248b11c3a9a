"""What a solution means: prices, sensitivities, side effects, trade-offs.

With V = E_x Var_{p_lam}(r) and A the active values (lam_i > 0):

    price         d KL / d c_i = lam_i
    sensitivity   d lam_A / d c_A = V_AA^-1                       (theorem 4 of the paper has a minus sign)
    side effect   d predicted_j / d c_i = [V_jA V_AA^-1]_i        for every value j, free ones included
    trade-off     d c_j / d c_i = -lam_i / lam_j                  at fixed KL

Source: mapft/palette/README.md, "What is reported".

Legend: N rows, P prompts, V values, A active values. Results are in raw units and keyed by value name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mapft.palette.matrix import ScoreMatrix
from mapft.palette.partition import Floats
from mapft.palette.precision import StandardErrors, errors_of
from mapft.palette.problem import Problem
from mapft.palette.solution import DualSolution

Nested = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Analysis:
    """Derivatives of an optimal solution in raw units.

    price: nats of KL per raw unit of target; price_per_sd: per sd of the value.
    sensitivity[i][j]: d lam_i / d c_j, i and j active.
    side_effects[j][i]: d predicted_j / d c_i, i active, j any value.
    trade_offs[i][j]: change of target j, negative, for one more unit of target i at fixed KL, i and j active.
    ess_per_prompt, ess_worst_prompt: effective samples (1 to K) of the median and of the worst prompt.
    standard_errors: of lam and of the predicted levels.
    """

    price: dict[str, float]
    price_per_sd: dict[str, float]
    sensitivity: Nested
    side_effects: Nested
    trade_offs: Nested
    ess_per_prompt: float
    ess_worst_prompt: float
    standard_errors: StandardErrors

    def to_dict(self) -> dict[str, Any]:
        """Plain dict for JSON."""
        return asdict(self)


def analyse(matrix: ScoreMatrix, solution: DualSolution) -> Analysis:
    """Prices, sensitivities, side effects, trade-offs, ESS per prompt and standard errors of an optimal solution.

    Where two values are identical the sensitivity is not unique; the one of least norm is returned.
    Raises UserError when the solution is not optimal or belongs to another matrix.
    """
    problem = Problem.of(matrix, solution)
    tilt = problem.partition.tilt(problem.lam(solution.lam))
    lam = {name: solution.lam[name] for name in matrix.values if solution.lam[name] > 0}
    active, scale_V = matrix.index(list(lam)), problem.frame.scale_V
    covariance_VV = problem.partition.covariance(tilt)
    inverse_AA = np.linalg.pinv(covariance_VV[np.ix_(active, active)], hermitian=True)
    effect_VA = covariance_VV[:, active] @ inverse_AA
    ess_P = _ess_of_prompts(matrix, tilt.weights_N)
    return Analysis(
        price=dict(solution.lam),
        price_per_sd={name: price * matrix.sd[name] for name, price in solution.lam.items()},
        sensitivity=_nested(list(lam), list(lam), inverse_AA / np.outer(scale_V[active], scale_V[active])),
        side_effects=_nested(matrix.values, list(lam), effect_VA * np.outer(scale_V, 1 / scale_V[active])),
        trade_offs={i: {j: -lam[i] / lam[j] for j in lam if j != i} for i in lam},
        ess_per_prompt=float(np.median(ess_P)),
        ess_worst_prompt=float(ess_P.min()),
        standard_errors=errors_of(problem, solution),
    )


def _ess_of_prompts(matrix: ScoreMatrix, weights_N: Floats) -> Floats:
    """(sum_k w)^2 / sum_k w^2 of every prompt; rows sorted by prompt. A prompt without weight counts as 1."""
    starts = matrix.groups.starts
    total_P, squares_P = np.add.reduceat(weights_N, starts), np.add.reduceat(weights_N**2, starts)
    return np.where(squares_P > 0, total_P**2 / np.where(squares_P > 0, squares_P, 1.0), 1.0)


def _nested(rows: Sequence[str], columns: Sequence[str], numbers: Floats) -> Nested:
    return {row: dict(zip(columns, line, strict=True)) for row, line in zip(rows, numbers.tolist(), strict=True)}
