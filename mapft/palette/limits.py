"""The largest feasible level of each value, given the targets of the others.

    limit_i = max { E_p r_i : p feasible, E_p r_j >= c_j for every other value j with a target }

One linear program for the palette and one for each value. Multipliers run to infinity at a limit, so a target must stay
below it. Source: mapft/palette/README.md, "Feasibility".

Legend: V values. Levels and targets in sd above the base level, -inf for a free value.
"""

from __future__ import annotations

import math

import numpy as np

from mapft.palette.estimators import Estimator, choose_estimator
from mapft.palette.feasibility import MARGIN_TOLERANCE, clipped, margin
from mapft.palette.matrix import ScoreMatrix
from mapft.palette.palette import Palette
from mapft.palette.partition import Floats
from mapft.palette.problem import Problem


def largest_levels(matrix: ScoreMatrix, palette: Palette, *, estimator: Estimator | None = None) -> dict[str, float]:
    """The limit of every value of the matrix in raw units; nan where the other targets are infeasible by themselves.

    Raises UserError when the palette names a value that the matrix lacks.
    """
    problem = Problem(matrix, choose_estimator(matrix, estimator))
    target_V = problem.target(palette.targets)
    feasible = _is_feasible(problem, target_V)
    limits_V = np.array([_limit(problem, target_V, column, feasible) for column in range(len(target_V))])
    return problem.named(limits_V * problem.frame.scale_V + problem.frame.base_V)


def _limit(problem: Problem, target_V: Floats, column: int, feasible: bool) -> float:
    """The limit of one value. feasible: whether all targets together are, which spares a program."""
    others_V = target_V.copy()
    others_V[column] = -np.inf
    if not feasible and not _is_feasible(problem, others_V):
        return math.nan
    gain_V = np.zeros(len(target_V))
    gain_V[column] = 1.0
    return problem.feasible_set.maximise(gain_V, clipped(others_V)).value


def _is_feasible(problem: Problem, target_V: Floats) -> bool:
    """Whether a level meets the targets, which the set then holds; +inf is the target of an impossible constant."""
    return not (target_V == np.inf).any() and margin(problem.feasible_set, target_V)[0] > MARGIN_TOLERANCE
