"""Which palettes are attainable: linear programs over the attainable levels, and the certificate of a refusal.

The attainable set A is the convex set of levels that some re-weighting of the samples realizes (method section 3):
one simplex over the rows for `pooled` and `centered`, one simplex per prompt for `per_prompt`. A is known through its
support function h(q) = max_{a in A} q.a, one matrix-vector product. Every program here is solved by column generation:
HiGHS solves it over the few points of A found so far, and its prices name the direction in which to look for a better
one. This is exact, and needs neither N columns nor P simplices in one program. Many values with a simplex per prompt
are the exception: there a direction shows one point only, and the program over all rows is the faster one.

Legend: V values, R of them with a floor; n points of A; U extra unknowns of a program, X = n + U unknowns in all.
Levels and targets are in sd above the base level.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import csr_array, hstack

from mapft.palette.estimators import Estimator, partition_of
from mapft.palette.matrix import RewardMatrix
from mapft.palette.partition import Floats, Partition, PromptMixture

EXACT = 1e-10  # HiGHS' finest tolerance
UNDECIDED = 1e-9  # a margin (sd) within this of 0 is the boundary
NOTHING_U: Floats = np.zeros(0)
MANY_VALUES = 8  # from here on `per_prompt` programs hold all rows, as long as the matrix has at most
MOST_NUMBERS = 2_000_000  # numbers
FAR = 1e9  # targets are read as if at most this many sd from the base level, so that no program overflows


class Optimum(NamedTuple):
    """Solution of a program over A: its value, the level a, the extra unknowns, the price of each floor (>= 0)."""

    value: float
    level_V: Floats
    extra_U: Floats
    prices_V: Floats


class Attainable:
    """The attainable set A of a partition, as the hull of the points found so far; each program adds points to it.

    One object serves many programs on one matrix: points found for one palette speed up the next.
    """

    def __init__(self, partition: Partition) -> None:
        values = len(partition.points_VN)
        looks = [partition.furthest(q_V) for q_V in (*np.eye(values), np.ones(values))]
        self.partition = partition
        self.points_nV: Floats = np.vstack([np.zeros((1, values)), *looks])

    def maximise(
        self,
        gain_V: Floats,
        floor_V: Floats,
        extra_gain_U: Floats = NOTHING_U,
        extra_VU: Floats | None = None,
        lowest: float = 0.0,
        highest: float = np.inf,
    ) -> Optimum:
        """max gain.a + extra_gain.u  over a in A and lowest <= u <= highest,  subject to  a + extra u >= floor.

        A floor of -inf leaves that level free. The points found so far must contain a solution; the optimum's error
        is at most EXACT.
        """
        held_V = np.isfinite(floor_V)
        if extra_VU is None:
            extra_VU = np.zeros((len(floor_V), 0))
        bounds = [(lowest, highest)] * len(extra_gain_U)

        def over(points_nV: Floats, simplices_Pn: Any, totals_P: Floats) -> Optimum:
            objective_X = np.concatenate([points_nV @ gain_V, extra_gain_U])
            levels_RX = np.hstack([points_nV[:, held_V].T, extra_VU[held_V]])
            value, found_X, prices_R = _solve(objective_X, levels_RX, floor_V[held_V], simplices_Pn, totals_P, bounds)
            prices_V = np.zeros(len(floor_V))
            prices_V[held_V] = prices_R
            shares_n, extra_U = np.split(found_X, [len(points_nV)])
            return Optimum(value, shares_n @ points_nV, extra_U, prices_V)

        whole = self.partition
        if isinstance(whole, PromptMixture) and len(floor_V) > MANY_VALUES and whole.points_VN.size <= MOST_NUMBERS:
            return over(whole.points_VN.T, whole.simplices(), whole.weights_P)
        while True:
            points_nV = self.points_nV
            found = over(points_nV, np.ones((1, len(points_nV))), np.ones(1))
            direction_V = gain_V + found.prices_V
            if not self.look(direction_V, beyond=float((points_nV @ direction_V).max())):
                return found

    def include(self, level_V: Floats) -> None:
        """Add a level that is known to be attainable, such as the solution of the last program's dual."""
        self.points_nV = np.vstack([self.points_nV, level_V])

    def look(self, direction_V: Floats, beyond: float) -> bool:
        """Add the points of A furthest along a direction; False when that is not beyond `beyond`, up to rounding."""
        found_nV = self.partition.furthest(direction_V)
        if direction_V @ found_nV[0] <= beyond + EXACT / 10 * max(1.0, np.abs(direction_V).sum()):
            return False
        self.points_nV = np.vstack([self.points_nV, found_nV])
        return True


def _solve(
    objective_X: Floats,
    levels_RX: Floats,
    floor_R: Floats,
    simplices_Pn: Any,
    totals_P: Floats,
    bounds: list[tuple[float, float]],
) -> tuple[float, Floats, Floats]:
    """max objective.x over x = (shares of the points, extra unknowns), levels x >= floor: value, x, prices >= 0.

    The shares sum to totals_P, one sum for each row of simplices_Pn, which may be sparse.
    """
    count = len(objective_X) - len(bounds)
    found = linprog(
        -objective_X,
        A_ub=-levels_RX,
        b_ub=-floor_R,
        A_eq=hstack([simplices_Pn, csr_array((len(totals_P), len(bounds)))]) if bounds else simplices_Pn,
        b_eq=totals_P,
        bounds=[(0.0, np.inf)] * count + bounds,
        method="highs-ds",
        options={"presolve": False, "primal_feasibility_tolerance": EXACT, "dual_feasibility_tolerance": EXACT},
    )
    if found.x is None or found.fun is None:
        raise ArithmeticError(f"the program over {count} points failed: {found.message}")
    return -found.fun, found.x, np.maximum(-found.ineqlin.marginals, 0.0)


def margin(attainable: Attainable, target_V: Floats) -> tuple[float, Floats]:
    """t* = max { t : a >= c + t for some a in A }, in sd, and its prices q >= 0, sum q = 1, with h(q) - q.c = t*.

    t* > 0: attainable with room to spare; t* < 0: q proves that no a in A reaches c, because q.c > h(q); t* = inf when
    every value is free (c = -inf).
    """
    values = len(target_V)
    if not np.isfinite(target_V).any():
        return np.inf, np.zeros(values)
    found = attainable.maximise(np.zeros(values), near(target_V), np.ones(1), -np.ones((values, 1)), lowest=-np.inf)
    return found.value, found.prices_V


def reach(attainable: Attainable, from_V: Floats, along_V: Floats, most: float) -> float:
    """rho* = max { rho <= most : a >= from + rho * along for some a in A }; `from` itself must be attainable.

    With from = the base level 0 and along = c: rho* > 1 exactly when the dual of c is attained, rho* = 1 on the
    boundary, rho* < 1 when c is not attainable.
    """
    nothing_V, along_VU = np.zeros(len(from_V)), near(along_V)[:, None]
    return attainable.maximise(nothing_V, from_V, np.ones(1), -along_VU, highest=most).value


def near(target_V: Floats) -> Floats:
    """Targets brought within FAR of the base level; free values stay free."""
    return np.where(np.isfinite(target_V), np.clip(target_V, -FAR, FAR), target_V)


class Certificate(dict[str, float]):
    """Proof that a palette is not attainable: weights q >= 0 by value name with  q.c > max_{a in A} q.a.

    "Even the best re-weighting of the samples misses this mixture of targets." With the pooled estimator the maximum
    is that of N dot products: q.c > max_n q.r_n. q is scaled so that the excess q.c - max q.a is the lack in sd.
    """

    def __init__(self, weights: Mapping[str, float], targets: Mapping[str, float], estimator: Estimator) -> None:
        super().__init__(weights)
        self.targets = dict(targets)
        self.estimator = estimator

    def excess(self, matrix: RewardMatrix) -> float:
        """q.(c - base) - max_{a in A} q.(a - base): positive when the proof holds."""
        partition, frame = partition_of(matrix, self.estimator)
        columns = matrix.index(list(self))
        weights_V = np.zeros(len(matrix.values))
        weights_V[columns] = list(self.values())
        lack = sum(q * (self.targets[name] - matrix.base[name]) for name, q in self.items())
        return float(lack - (weights_V * frame.scale_V) @ partition.furthest(weights_V * frame.scale_V)[0])

    def verify(self, matrix: RewardMatrix) -> bool:
        """Whether the proof holds on this matrix: every q_i >= 0 and a positive excess."""
        return min(self.values()) >= 0 and self.excess(matrix) > 0
