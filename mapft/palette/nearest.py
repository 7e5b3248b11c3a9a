"""Three methods to find the nearest feasible targets, on arrays in standardised units; adjust.py is their interface.

Each ends where the effective sample size has fallen to the floor, and at the latest a little inside the boundary of the
feasible set, where the multipliers run to infinity.
Source: mapft/palette/README.md, "Adjusting an infeasible palette".

Legend: V values, n feasible points, C values with a target. Levels in sd above the base level, -inf for a free value.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from scipy.optimize import nnls

from mapft.palette.feasibility import FeasibleSet, largest_step
from mapft.palette.newton import KKT_TOLERANCE
from mapft.palette.partition import Floats
from mapft.palette.problem import Problem
from mapft.palette.program import Extras

Norm = Literal["l1", "l2"]
BOUNDARY_SHARE = 0.99  # of the distance to the boundary, at most
BISECTIONS = 40


def interpolated(problem: Problem, target_V: Floats, floor: float) -> Floats:
    """c' = rho c with the largest rho that is feasible; targets below the base level stay."""
    start_V, direction_V = np.minimum(target_V, 0.0), np.maximum(target_V, 0.0)
    rho = largest_step(problem.feasible_set, start_V, direction_V, at_most=1.0 / BOUNDARY_SHARE)
    end_V = start_V + rho * BOUNDARY_SHARE * direction_V
    return _largest_with_ess(problem, start_V, end_V, floor)


def by_priority(problem: Problem, target_V: Floats, floor: float, columns: list[int]) -> Floats:
    """Column after column at min(its target, the largest level given the columns before it): one program each."""
    fixed_V = np.full(len(target_V), -np.inf)
    for column in columns:
        predicted_V = problem.maximise_dual(fixed_V).predicted_V
        start_V, end_V = fixed_V.copy(), fixed_V.copy()
        start_V[column] = end_V[column] = min(predicted_V[column], target_V[column])
        if target_V[column] > predicted_V[column]:
            problem.feasible_set.add_point(predicted_V)
            unit_V = np.arange(len(target_V)) == column
            largest = problem.feasible_set.maximise(unit_V.astype(float), fixed_V).value
            inside = predicted_V[column] + BOUNDARY_SHARE * (largest - predicted_V[column])
            end_V[column] = min(target_V[column], inside)
        fixed_V = _largest_with_ess(problem, start_V, end_V, floor)
    return fixed_V


def least_change(problem: Problem, target_V: Floats, floor: float, cost_V: Floats, norm: Norm) -> Floats:
    """The feasible c' <= c with the least sum of cost * (c - c') or of cost * (c - c')^2, moved inside the boundary."""
    nearest = _nearest_l1 if norm == "l1" else _nearest_l2
    return interpolated(problem, nearest(problem.feasible_set, target_V, cost_V), floor)


def _largest_with_ess(problem: Problem, start_V: Floats, end_V: Floats, floor: float) -> Floats:
    """The targets closest to `end` on the segment from `start` with an ESS of at least `floor`, by bisection."""

    def has_ess(target_V: Floats) -> bool:
        iterate = problem.maximise_dual(target_V)
        return iterate.kkt_residual <= KKT_TOLERANCE and iterate.tilt.ess >= floor

    if has_ess(end_V):
        return end_V
    direction_V = np.where(np.isfinite(end_V), end_V, 0.0) - np.where(np.isfinite(start_V), start_V, 0.0)
    low, high = 0.0, 1.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if has_ess(start_V + middle * direction_V) else (low, middle)
    return start_V + low * direction_V


def _nearest_l1(feasible: FeasibleSet, target_V: Floats, cost_V: Floats) -> Floats:
    """min cost.u subject to a + u >= c, u >= 0, a feasible: one linear program; c' = c - u."""
    named_V = np.isfinite(target_V)
    nothing_V, unit_VC = np.zeros(len(target_V)), np.eye(len(target_V))[:, named_V]
    nearest_V = target_V.copy()
    nearest_V[named_V] -= feasible.maximise(nothing_V, target_V, Extras(-cost_V[named_V], unit_VC)).extra_U
    return nearest_V


def _nearest_l2(feasible: FeasibleSet, target_V: Floats, cost_V: Floats) -> Floats:
    """min sum cost (c - a)_+^2 over feasible a: the point of A - (positive orthant) nearest to c; c' = min(c, a).

    Over the hull of n points it is a non-negative least-squares problem: with theta >= 0 the shares of the points and
    sigma >= 0 the slack, min |sum_n theta_n (a_n - c) - sigma|^2 + (sum theta - 1)^2 has the nearest point's direction.
    """
    named_V = np.isfinite(target_V)
    root_C, target_C = np.sqrt(cost_V[named_V]), target_V[named_V]
    while True:
        points_nC = feasible.points_nV[:, named_V]
        offsets = np.hstack([((points_nC - target_C) * root_C).T, -np.eye(len(target_C))])
        sums = np.append(np.ones(len(points_nC)), np.zeros(len(target_C)))
        solution, _ = nnls(np.vstack([offsets, sums]), np.append(np.zeros(len(target_C)), 1.0))
        shares_n = solution[: len(points_nC)] / solution[: len(points_nC)].sum()
        level_C = shares_n @ points_nC
        direction_V = np.zeros(len(target_V))
        direction_V[named_V] = np.maximum(target_C - level_C, 0.0) * cost_V[named_V]
        if not feasible.add_extreme_points(direction_V, above=float((feasible.points_nV @ direction_V).max())):
            nearest_V = target_V.copy()
            nearest_V[named_V] = np.minimum(target_C, level_C)
            return nearest_V
