"""Which palettes are feasible: linear programs over the set of feasible levels, and certificates of infeasibility.

The feasible set A is the convex set of levels that re-weighted samples can have: one simplex over the rows for `pooled`
and `centered`, one simplex per prompt for `per_prompt`. Its support function h(q) = max_{a in A} q.a costs one
matrix-vector product. Each program is solved by column generation: HiGHS solves it over the known points of A, and
its prices are the direction in which the next point is searched. This is exact and needs neither N columns nor P
simplices in one program. The exception is `per_prompt` with many values: a direction then yields one point only, and
the program over all rows is faster.
Source: mapft/palette/README.md, "Feasibility".

Legend: V values, R of them with a lower bound; n points of A; U extra unknowns of a program, X = n + U unknowns.
Levels and targets are in sd above the base level.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import csr_array, hstack

from mapft.palette.estimators import Estimator, partition_of
from mapft.palette.matrix import ScoreMatrix
from mapft.palette.partition import Floats, Partition, PromptMixture

LP_TOLERANCE = 1e-10  # the smallest that HiGHS accepts
MARGIN_TOLERANCE = 1e-9  # sd; a smaller margin, positive or negative, counts as 0
MANY_VALUES = 8  # with more, a `per_prompt` program holds all rows of a matrix of at most MAX_NUMBERS
MAX_NUMBERS = 2_000_000
MAX_TARGET = 1e9  # sd from the base level; targets are clipped there, so that no program overflows
NO_EXTRAS_U: Floats = np.zeros(0)


class Optimum(NamedTuple):
    """Solution of a program over A: its value, the level a, the extra unknowns, the price of each bound (>= 0)."""

    value: float
    level_V: Floats
    extra_U: Floats
    prices_V: Floats


class FeasibleSet:
    """The feasible set A of a partition, represented by the points found so far; each program adds points.

    One object serves many programs on one matrix: the points of one palette speed up the next.
    """

    def __init__(self, partition: Partition) -> None:
        values = len(partition.points_VN)
        corners = [partition.extreme_points(q_V) for q_V in (*np.eye(values), np.ones(values))]
        self.partition = partition
        self.points_nV: Floats = np.vstack([np.zeros((1, values)), *corners])

    def maximise(
        self,
        gain_V: Floats,
        bound_V: Floats,
        extra_gain_U: Floats = NO_EXTRAS_U,
        extra_VU: Floats | None = None,
        extra_range: tuple[float, float] = (0.0, np.inf),
    ) -> Optimum:
        """max gain.a + extra_gain.u  over a in A and u within extra_range,  subject to  a + extra u >= bound.

        A bound of -inf leaves that level free. The points found so far must contain a feasible point of the program.
        The error of the optimum is at most LP_TOLERANCE.
        """
        bounded_V = np.isfinite(bound_V)
        if extra_VU is None:
            extra_VU = np.zeros((len(bound_V), 0))
        ranges = [extra_range] * len(extra_gain_U)

        def optimum(points_nV: Floats, simplices_Pn: Any, totals_P: Floats) -> Optimum:
            objective_X = np.concatenate([points_nV @ gain_V, extra_gain_U])
            levels_RX = np.hstack([points_nV[:, bounded_V].T, extra_VU[bounded_V]])
            value, x_X, prices_R = _solve(objective_X, levels_RX, bound_V[bounded_V], simplices_Pn, totals_P, ranges)
            prices_V = np.zeros(len(bound_V))
            prices_V[bounded_V] = prices_R
            shares_n, extra_U = np.split(x_X, [len(points_nV)])
            return Optimum(value, shares_n @ points_nV, extra_U, prices_V)

        rows = self.partition
        if isinstance(rows, PromptMixture) and len(bound_V) > MANY_VALUES and rows.points_VN.size <= MAX_NUMBERS:
            return optimum(rows.points_VN.T, rows.simplices(), rows.weights_P)
        while True:
            points_nV = self.points_nV
            best = optimum(points_nV, np.ones((1, len(points_nV))), np.ones(1))
            direction_V = gain_V + best.prices_V
            if not self.add_extreme_points(direction_V, above=float((points_nV @ direction_V).max())):
                return best

    def add_point(self, level_V: Floats) -> None:
        """Add a level that is known to be feasible, such as a predicted level."""
        self.points_nV = np.vstack([self.points_nV, level_V])

    def add_extreme_points(self, direction_V: Floats, above: float) -> bool:
        """Add the points of A that maximise direction.a; False if the maximum is not above `above`, up to rounding."""
        extreme_nV = self.partition.extreme_points(direction_V)
        if direction_V @ extreme_nV[0] <= above + LP_TOLERANCE / 10 * max(1.0, np.abs(direction_V).sum()):
            return False
        self.points_nV = np.vstack([self.points_nV, extreme_nV])
        return True


def _solve(
    objective_X: Floats,
    levels_RX: Floats,
    bound_R: Floats,
    simplices_Pn: Any,
    totals_P: Floats,
    ranges: list[tuple[float, float]],
) -> tuple[float, Floats, Floats]:
    """max objective.x over x = (shares of the points, extra unknowns), levels x >= bound: value, x, prices >= 0.

    The shares sum to totals_P, one sum for each row of simplices_Pn, which may be sparse.
    """
    count = len(objective_X) - len(ranges)
    result = linprog(
        -objective_X,
        A_ub=-levels_RX,
        b_ub=-bound_R,
        A_eq=_with_zeros(simplices_Pn, len(ranges)),
        b_eq=totals_P,
        bounds=[(0.0, np.inf)] * count + ranges,
        method="highs-ds",
        options={
            "presolve": False,
            "primal_feasibility_tolerance": LP_TOLERANCE,
            "dual_feasibility_tolerance": LP_TOLERANCE,
        },
    )
    if result.x is None or result.fun is None:
        raise ArithmeticError(f"the linear program over {count} points failed: {result.message}")
    return -result.fun, result.x, np.maximum(-result.ineqlin.marginals, 0.0)


def _with_zeros(simplices_Pn: Any, columns: int) -> Any:
    """So many columns of zeros on the right. A dense matrix stays dense, with which small programs are faster."""
    if isinstance(simplices_Pn, np.ndarray):
        return np.hstack([simplices_Pn, np.zeros((len(simplices_Pn), columns))])
    return hstack([simplices_Pn, csr_array((simplices_Pn.shape[0], columns))]) if columns else simplices_Pn


def margin(feasible: FeasibleSet, target_V: Floats) -> tuple[float, Floats]:
    """t* = max { t : a >= c + t for some a in A } in sd, and its prices q >= 0, sum q = 1, with h(q) - q.c = t*.

    t* > 0: feasible, and every target could rise by t* sd. t* < 0: infeasible, and q proves it, because q.c > h(q).
    t* = inf when every value is free (c = -inf).
    """
    values = len(target_V)
    if not np.isfinite(target_V).any():
        return np.inf, np.zeros(values)
    nothing_V, raised_V1 = np.zeros(values), -np.ones((values, 1))
    best = feasible.maximise(nothing_V, clipped(target_V), np.ones(1), raised_V1, extra_range=(-np.inf, np.inf))
    return best.value, best.prices_V


def largest_step(feasible: FeasibleSet, start_V: Floats, direction_V: Floats, at_most: float) -> float:
    """rho* = max { rho <= at_most : a >= start + rho * direction for some a in A }; `start` itself must be feasible.

    With start = 0, the base level, and direction = c: rho* > 1 exactly when the dual of c has a maximum, rho* = 1 on
    the boundary, rho* < 1 when c is infeasible.
    """
    nothing_V, direction_V1 = np.zeros(len(start_V)), clipped(direction_V)[:, None]
    return feasible.maximise(nothing_V, start_V, np.ones(1), -direction_V1, extra_range=(0.0, at_most)).value


def clipped(target_V: Floats) -> Floats:
    """Targets clipped to MAX_TARGET sd from the base level; free values stay free."""
    return np.where(np.isfinite(target_V), np.clip(target_V, -MAX_TARGET, MAX_TARGET), target_V)


class Certificate(dict[str, float]):
    """Proof that a palette is infeasible: weights q >= 0 by value name with  q.c > max_{a in A} q.a.

    Even the best re-weighting of the samples has a lower q-weighted sum of levels than the palette asks for. With the
    pooled estimator the maximum is over N dot products: q.c > max_n q.r_n. q is scaled so that the excess
    q.c - max q.a is the negative margin, in sd.
    """

    def __init__(self, weights: Mapping[str, float], targets: Mapping[str, float], estimator: Estimator) -> None:
        super().__init__(weights)
        self.targets = dict(targets)
        self.estimator = estimator

    def excess(self, matrix: ScoreMatrix) -> float:
        """q.(c - base) - max_{a in A} q.(a - base): positive when the proof holds."""
        partition, frame = partition_of(matrix, self.estimator)
        columns = matrix.index(list(self))
        weights_V = np.zeros(len(matrix.values))
        weights_V[columns] = list(self.values())
        raised = sum(q * (self.targets[name] - matrix.base[name]) for name, q in self.items())
        extreme_V = partition.extreme_points(weights_V * frame.scale_V)[0]
        return float(raised - (weights_V * frame.scale_V) @ extreme_V)

    def verify(self, matrix: ScoreMatrix) -> bool:
        """Whether the proof holds on this matrix: every q_i >= 0 and a positive excess."""
        return min(self.values()) >= 0 and self.excess(matrix) > 0
