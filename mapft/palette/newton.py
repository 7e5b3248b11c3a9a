"""Projected Newton's method for the dual of MAP, in standardised units (method sections 1 and 2).

    maximise over lam >= 0    g(lam) = lam.c - E_x log Z(x, lam)

Gradient c - realized(lam), Hessian -E_x Var_{p_lam}(r). Each step maximises the quadratic model of g over lam >= 0
exactly, as a non-negative least-squares problem, so a slack constraint has lam_i exactly 0.

Legend: V values, all of them constrained; lam in 1/sd, levels and targets in sd above the base level.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from mapft.palette.partition import Floats, Partition, Tilt

SHARP = 1e-13  # KKT residual that the iteration aims at, close to the rounding of a standardised level
CONVERGED = 1e-9  # largest KKT residual (sd) of an optimal solution; below it, stiffer steps are not worth their time
MOST_STEPS = 200
LEAST_STEP = 2.0**-40
FINAL_RISE = 1e-10  # nats; below it g's own rounding hides the rise, so the residual decides
RIDGE = 1e-10  # of the mean variance: keeps the model solvable when values duplicate each other
LEAST_RIDGE = 1e-30  # sd^2: keeps a step finite where p_lam has collapsed onto one row
STIFFER = 1e4  # by so much the ridge grows while no step along the model's way makes progress
MOST_NATS = 1000.0  # g* is a KL and thus at most log(1 / smallest weight) < 750 in float64: above it, no maximum exists


@dataclass(frozen=True, eq=False)
class Ascent:
    """A point on the way up: multipliers, tilt, realized levels, g in nats, KKT residual, steps taken so far."""

    lam_V: Floats
    tilt: Tilt
    realized_V: Floats
    dual: float
    kkt_residual: float
    steps: int


def ascend(partition: Partition, target_V: Floats, start_V: Floats | None = None, sharp: float = SHARP) -> Ascent:
    """Maximise g from `start_V`, or from 0 where that is higher, until the KKT residual is `sharp`: rounding level.

    The residual max_i |min(lam_i, realized_i - c_i)| of the result says whether the maximum was reached; where the
    targets are not attainable there is none, and the iteration ends with a large one.
    """
    zero_V = np.zeros(len(target_V))
    here = evaluate(partition, target_V, zero_V if start_V is None else start_V, 0)
    if here.dual < 0:  # g(0) = 0
        here = evaluate(partition, target_V, zero_V, 0)
    while here.kkt_residual > sharp and here.steps < MOST_STEPS and here.dual < MOST_NATS:
        there = _step(partition, target_V, here)
        if there is None:
            break
        here = there
    return here


def evaluate(partition: Partition, target_V: Floats, lam_V: Floats, steps: int) -> Ascent:
    """Everything known about one lam."""
    tilt = partition.tilt(lam_V)
    realized_V = partition.mean(tilt)
    residual = float(np.abs(np.minimum(lam_V, realized_V - target_V)).max(initial=0.0))
    return Ascent(lam_V, tilt, realized_V, float(lam_V @ target_V - tilt.log_z), residual, steps)


def _step(partition: Partition, target_V: Floats, here: Ascent) -> Ascent | None:
    """One Newton step with backtracking; None when float64 allows no further progress.

    Where the variance has collapsed, Newton's step is far too long: the ridge grows until a step makes progress.
    """
    covariance_VV = partition.covariance(here.tilt)
    ridge = RIDGE * np.trace(covariance_VV) / len(target_V) + LEAST_RIDGE
    while ridge <= 1.0:
        there = _line_search(partition, target_V, here, covariance_VV + ridge * np.eye(len(target_V)))
        if there is not None or here.kkt_residual <= CONVERGED:
            return there
        ridge *= STIFFER
    return None


def _line_search(partition: Partition, target_V: Floats, here: Ascent, hessian_VV: Floats) -> Ascent | None:
    """The longest step 1, 1/2, 1/4, ... of the way to the model's maximum that raises g (near the top: that lowers
    the residual).
    """
    slope_V = target_V - here.realized_V
    move_V = _model_maximiser(hessian_VV, slope_V, here.lam_V) - here.lam_V
    rise = float(slope_V @ move_V)
    if rise <= FINAL_RISE:
        there = evaluate(partition, target_V, here.lam_V + move_V, here.steps + 1)
        return there if there.kkt_residual < here.kkt_residual else None
    length = 1.0
    while length > LEAST_STEP:
        there = evaluate(partition, target_V, here.lam_V + length * move_V, here.steps + 1)
        if there.dual >= here.dual + 1e-4 * length * rise:
            return there
        length /= 2
    return None


def _model_maximiser(hessian_VV: Floats, slope_V: Floats, lam_V: Floats) -> Floats:
    """argmax over x >= 0 of slope.(x - lam) - (x - lam)' H (x - lam) / 2.

    With H = L L' that is the non-negative least-squares problem min |L'x - L^-1 (slope + H lam)|.
    """
    lower_VV = np.linalg.cholesky(hessian_VV)
    wanted_V = np.linalg.solve(lower_VV, slope_V + hessian_VV @ lam_V)
    return nnls(lower_VV.T, wanted_V)[0]
