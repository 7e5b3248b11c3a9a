"""Sequential multipliers: one value at a time, in a cycle (theorem 5, with Hildreth's correction; method section 8).

At value i the reference is the policy of the previous stage, the only reward is r_i, and the stage is a one-dimensional
MAP problem whose increment may be negative, down to -lam_i:

    delta_i = argmax_{delta >= -lam_i}  delta c_i - log E_{current policy} exp(delta r_i);    lam_i <- lam_i + delta_i

which is exact coordinate ascent on the dual, so the cycle converges to the simultaneous solution. (The published
theorem allows delta_i >= 0 only; the cycle then stops at the wrong point whenever a multiplier has to come down.)

Legend: V values; lam in 1/sd, levels and targets in sd above the base level.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mapft.errors import UserError
from mapft.palette.estimators import Estimator, choose_estimator
from mapft.palette.matrix import RewardMatrix
from mapft.palette.newton import CONVERGED, Ascent, ascend, evaluate
from mapft.palette.palette import Palette
from mapft.palette.partition import Floats
from mapft.palette.problem import Problem
from mapft.palette.solution import DualSolution, Status


def solve_sequential(
    matrix: RewardMatrix,
    palette: Palette,
    *,
    order: Sequence[str] | None = None,
    rounds: int = 1000,
    tolerance: float = CONVERGED,
    estimator: Estimator | None = None,
) -> DualSolution:
    """The dual solved one value at a time, as the sequential mode trains; same result type as `solve_dual`.

    order: the cycle, a permutation of the palette's values; default the palette's own order.
    rounds, tolerance: stop after so many cycles, or when max_i |min(lam_i, realized_i - c_i)| (sd) is below tolerance.
    The solution's `trace` holds min(lam_i, realized_i - c_i) of every value after each round, `steps` the rounds, and
    the status is `unfinished` when the rounds ran out first. Source: theorem 5, method section 8.
    """
    cycle = _checked_cycle(palette, order, rounds)
    problem = Problem(matrix, choose_estimator(matrix, estimator))
    verdict = problem.feasibility(palette.targets)
    if verdict.status is not Status.optimal:
        return verdict
    target_V = problem.target(palette.targets)
    columns = [column for column in matrix.index(cycle) if np.isfinite(target_V[column])]
    here, trace = _cycle(problem, target_V, columns, rounds, tolerance)
    status = Status.optimal if here.kkt_residual <= tolerance else Status.unfinished
    return replace(problem.described(verdict, here), status=status, trace=tuple(trace))


def _cycle(
    problem: Problem, target_V: Floats, columns: list[int], rounds: int, tolerance: float
) -> tuple[Ascent, list[dict[str, float]]]:
    lam_V = np.zeros(len(target_V))
    trace: list[dict[str, float]] = []
    for number in range(1, rounds + 1):
        for column in columns:
            lam_V[column] = _stage(problem, target_V, lam_V, column)
        here = evaluate(problem.partition, target_V, lam_V, number)
        missing_V = np.minimum(here.lam_V, here.realized_V - target_V)
        trace.append({problem.matrix.values[column]: float(missing_V[column]) for column in columns})
        if here.kkt_residual <= tolerance:
            break
    return here, trace


def _stage(problem: Problem, target_V: Floats, lam_V: Floats, column: int) -> float:
    """lam_i + delta_i: the one-dimensional MAP problem of value i, all other multipliers fixed.

    Its base policy is the current one without value i, so that delta_i >= -lam_i becomes lam_i >= 0.
    """
    others_V = np.where(np.arange(len(lam_V)) == column, 0.0, lam_V)
    chosen = np.array([column])
    partition = problem.partition.tilted(others_V).only(chosen)
    return float(ascend(partition, target_V[chosen], lam_V[chosen]).lam_V[0])


def _checked_cycle(palette: Palette, order: Sequence[str] | None, rounds: int) -> list[str]:
    if rounds < 1:
        raise UserError(f"rounds is {rounds}: the sequential mode needs at least one.")
    cycle = list(palette.targets) if order is None else list(order)
    if sorted(cycle) != sorted(palette.targets):
        raise UserError(
            f"the order visits {{{', '.join(cycle)}}} but the palette names {{{', '.join(palette.targets)}}}: "
            "visit every value of the palette once."
        )
    return cycle
