"""Three ways to the nearest attainable targets, on arrays in standardised units (method section 3); see adjust.py.

Every way ends where the effective sample size has fallen to the floor, and at the latest a little inside the edge of
the attainable set, where the multipliers would run to infinity.

Legend: V values, n attainable points, C values with a target. Levels in sd above the base level, -inf for a free value.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from scipy.optimize import nnls

from mapft.palette.feasibility import Attainable, reach
from mapft.palette.newton import CONVERGED
from mapft.palette.partition import Floats
from mapft.palette.problem import Problem

Norm = Literal["l1", "l2"]
SHORT_OF_EDGE = 0.99  # of the way out, where the effective sample size alone does not stop us earlier
BISECTIONS = 40


def interpolated(problem: Problem, target_V: Floats, floor: float) -> Floats:
    """c' = rho c with the largest rho that is attainable; targets below the base level stay."""
    from_V, along_V = np.minimum(target_V, 0.0), np.maximum(target_V, 0.0)
    edge = reach(problem.attainable, from_V, along_V, most=1.0 / SHORT_OF_EDGE)
    end_V = from_V + edge * SHORT_OF_EDGE * along_V
    return _towards(problem, from_V, end_V, floor)


def by_priority(problem: Problem, target_V: Floats, floor: float, columns: list[int]) -> Floats:
    """Column after column at min(its target, the highest level given the columns before it): one program each."""
    fixed_V = np.full(len(target_V), -np.inf)
    for column in columns:
        realized_V = problem.ascend(fixed_V).realized_V
        from_V, end_V = fixed_V.copy(), fixed_V.copy()
        from_V[column] = end_V[column] = min(realized_V[column], target_V[column])
        if target_V[column] > realized_V[column]:
            problem.attainable.include(realized_V)
            unit_V = np.arange(len(target_V)) == column
            top = problem.attainable.maximise(unit_V.astype(float), fixed_V).value
            inside = realized_V[column] + SHORT_OF_EDGE * (top - realized_V[column])
            end_V[column] = min(target_V[column], inside)
        fixed_V = _towards(problem, from_V, end_V, floor)
    return fixed_V


def least_change(problem: Problem, target_V: Floats, floor: float, cost_V: Floats, norm: Norm) -> Floats:
    """The attainable c' <= c with the least sum of cost * (c - c') or of cost * (c - c')^2, then short of the edge."""
    nearest = _nearest_l1 if norm == "l1" else _nearest_l2
    return interpolated(problem, nearest(problem.attainable, target_V, cost_V), floor)


def _towards(problem: Problem, from_V: Floats, end_V: Floats, floor: float) -> Floats:
    """The furthest targets between `from` and `end` at which p_lam has the effective sample size, by bisection."""

    def enough(target_V: Floats) -> bool:
        ascent = problem.ascend(target_V)
        return ascent.kkt_residual <= CONVERGED and ascent.tilt.ess >= floor

    if enough(end_V):
        return end_V
    along_V = np.where(np.isfinite(end_V), end_V, 0.0) - np.where(np.isfinite(from_V), from_V, 0.0)
    low, high = 0.0, 1.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if enough(from_V + middle * along_V) else (low, middle)
    return from_V + low * along_V


def _nearest_l1(attainable: Attainable, target_V: Floats, cost_V: Floats) -> Floats:
    """min cost.u subject to a + u >= c, u >= 0, a attainable: one linear program; c' = c - u."""
    held = np.isfinite(target_V)
    found = attainable.maximise(np.zeros(len(target_V)), target_V, -cost_V[held], np.eye(len(target_V))[:, held])
    nearest_V = target_V.copy()
    nearest_V[held] -= found.extra_U
    return nearest_V


def _nearest_l2(attainable: Attainable, target_V: Floats, cost_V: Floats) -> Floats:
    """min sum cost (c - a)_+^2 over attainable a: the point of A - (positive orthant) nearest to c; c' = min(c, a).

    Over the hull of n points it is a non-negative least-squares problem: with theta >= 0 the shares of the points and
    sigma >= 0 the slack, min |sum_n theta_n (a_n - c) - sigma|^2 + (sum theta - 1)^2 has the nearest point's direction.
    """
    held = np.isfinite(target_V)
    root_C, target_C = np.sqrt(cost_V[held]), target_V[held]
    while True:
        points_nC = attainable.points_nV[:, held]
        offsets = np.hstack([((points_nC - target_C) * root_C).T, -np.eye(len(target_C))])
        sums = np.append(np.ones(len(points_nC)), np.zeros(len(target_C)))
        solution, _ = nnls(np.vstack([offsets, sums]), np.append(np.zeros(len(target_C)), 1.0))
        shares_n = solution[: len(points_nC)] / solution[: len(points_nC)].sum()
        level_C = shares_n @ points_nC
        direction_V = np.zeros(len(target_V))
        direction_V[held] = np.maximum(target_C - level_C, 0.0) * cost_V[held]
        if not attainable.look(direction_V, beyond=float((attainable.points_nV @ direction_V).max())):
            nearest_V = target_V.copy()
            nearest_V[held] = np.minimum(target_C, level_C)
            return nearest_V
