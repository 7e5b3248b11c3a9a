"""Projected Newton's method for the dual of MAP, in standardised units.

    maximise over lam >= 0    g(lam) = lam.c - E_x log Z(x, lam)

Gradient c - predicted(lam), Hessian -E_x Var_{p_lam}(r). Each step maximises the quadratic model of g over lam >= 0
exactly, as a non-negative least-squares problem, so a slack constraint has lam_i exactly 0.
Source: paper, theorem 1 and section 2.3; mapft/palette/README.md, "Problem and dual".

Legend: V values, all of them constrained; lam in 1/sd, levels and targets in sd above the base level.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from mapft.palette.partition import Floats, Partition, Tilt

GOAL = 1e-13  # KKT residual (sd) at which the iteration stops: close to the rounding of a standardised level
KKT_TOLERANCE = 1e-9  # largest KKT residual (sd) of an optimal solution
MAX_STEPS = 200
MIN_STEP = 2.0**-40  # share of a Newton step
MIN_RISE = 1e-10  # nats; the rounding of g hides a smaller rise, so that the KKT residual decides
RIDGE = 1e-10  # share of the mean variance; keeps the model solvable when two values are identical
MIN_RIDGE = 1e-30  # sd^2; keeps a step finite when p_lam has all its weight on one row
RIDGE_GROWTH = 1e4  # factor after a step without progress
MAX_NATS = 1000.0  # g* is a KL, at most log(1 / smallest weight) < 750 in float64; above it no maximum exists


@dataclass(frozen=True, eq=False)
class Iterate:
    """One lam: its tilt, predicted levels, g in nats, KKT residual in sd, and the number of steps that led to it."""

    lam_V: Floats
    tilt: Tilt
    predicted_V: Floats
    dual: float
    kkt_residual: float
    steps: int


def projected_newton(
    partition: Partition, target_V: Floats, start_V: Floats | None = None, goal: float = GOAL
) -> Iterate:
    """argmax_{lam >= 0} g(lam), from `start_V`, or from 0 where g(0) = 0 is higher.

    Stops when the KKT residual max_i |min(lam_i, predicted_i - c_i)| is at most `goal`, or when float64 allows no
    progress. A residual above KKT_TOLERANCE means that no maximum was found: the targets are infeasible, or nearly so.
    """
    zero_V = np.zeros(len(target_V))
    current = _evaluate(partition, target_V, zero_V if start_V is None else start_V, 0)
    if current.dual < 0:  # g(0) = 0
        current = _evaluate(partition, target_V, zero_V, 0)
    while current.kkt_residual > goal and current.steps < MAX_STEPS and current.dual < MAX_NATS:
        candidate = _step(partition, target_V, current)
        if candidate is None:
            break
        current = candidate
    return current


def _evaluate(partition: Partition, target_V: Floats, lam_V: Floats, steps: int) -> Iterate:
    tilt = partition.tilt(lam_V)
    predicted_V = partition.mean(tilt)
    residual = float(np.abs(np.minimum(lam_V, predicted_V - target_V)).max(initial=0.0))
    return Iterate(lam_V, tilt, predicted_V, float(lam_V @ target_V - tilt.log_z), residual, steps)


def _step(partition: Partition, target_V: Floats, current: Iterate) -> Iterate | None:
    """One Newton step with backtracking; None when float64 allows no further progress.

    Where the variance is nearly 0, Newton's step is far too long: the ridge grows until a step makes progress.
    """
    covariance_VV = partition.covariance(current.tilt)
    ridge = RIDGE * np.trace(covariance_VV) / len(target_V) + MIN_RIDGE
    while ridge <= 1.0:
        candidate = _line_search(partition, target_V, current, covariance_VV + ridge * np.eye(len(target_V)))
        if candidate is not None or current.kkt_residual <= KKT_TOLERANCE:
            return candidate
        ridge *= RIDGE_GROWTH
    return None


def _line_search(partition: Partition, target_V: Floats, current: Iterate, hessian_VV: Floats) -> Iterate | None:
    """Backtracking line search towards the model's maximum: the first of the lengths 1, 1/2, 1/4, ... that raises g.

    Where the predicted rise is within rounding, the full step is taken if it lowers the KKT residual.
    """
    slope_V = target_V - current.predicted_V
    move_V = _model_maximiser(hessian_VV, slope_V, current.lam_V) - current.lam_V
    rise = float(slope_V @ move_V)
    if rise <= MIN_RISE:
        candidate = _evaluate(partition, target_V, current.lam_V + move_V, current.steps + 1)
        return candidate if candidate.kkt_residual < current.kkt_residual else None
    length = 1.0
    while length > MIN_STEP:
        candidate = _evaluate(partition, target_V, current.lam_V + length * move_V, current.steps + 1)
        if candidate.dual >= current.dual + 1e-4 * length * rise:
            return candidate
        length /= 2
    return None


def _model_maximiser(hessian_VV: Floats, slope_V: Floats, lam_V: Floats) -> Floats:
    """argmax over x >= 0 of slope.(x - lam) - (x - lam)' H (x - lam) / 2.

    With H = L L' that is the non-negative least-squares problem min |L'x - L^-1 (slope + H lam)|.
    """
    lower_VV = np.linalg.cholesky(hessian_VV)
    right_V = np.linalg.solve(lower_VV, slope_V + hessian_VV @ lam_V)
    return nnls(lower_VV.T, right_V)[0]
