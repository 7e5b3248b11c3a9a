"""Which palettes are feasible: linear programs over the set of feasible levels, and certificates of infeasibility.

The feasible set A is the convex set of levels that re-weighted samples can have: one simplex over the rows for `pooled`
and `centered`, one simplex per prompt for `per_prompt`. Its support function h(q) = max_{a in A} q.a costs one
matrix-vector product. Each program is solved by column generation: HiGHS solves it over the known points of A, and
its prices are the direction in which the next point is searched. This is exact and needs neither N columns nor P
simplices in one program. The exception is `per_prompt` with many values: a direction then yields one point only, and
the program over all rows is faster.
Source: mapft/palette/README.md, "Feasibility".

Legend: V values; n points of A; U extra unknowns of a program.
Levels and targets are in sd above the base level.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import numpy as np

from mapft.palette.estimators import Estimator, partition_of
from mapft.palette.matrix import ScoreMatrix
from mapft.palette.partition import Floats, Partition, PromptMixture
from mapft.palette.program import LP_TOLERANCE, Extras, Optimum, ShareProgram

MARGIN_TOLERANCE = 1e-9  # sd; a smaller margin, positive or negative, counts as 0
MANY_VALUES = 8  # with more, a `per_prompt` program holds all rows of a matrix of at most MAX_NUMBERS
MAX_NUMBERS = 2_000_000
MAX_TARGET = 1e9  # sd from the base level; targets are clipped there, so that no program overflows


class FeasibleSet:
    """The feasible set A of a partition, represented by the points found so far; each program adds points.

    One object serves many programs on one matrix: the points of one palette speed up the next.
    """

    def __init__(self, partition: Partition) -> None:
        values = len(partition.points_VN)
        corners = [partition.extreme_points(q_V) for q_V in (*np.eye(values), np.ones(values))]
        self.partition = partition
        self._known = ShareProgram(np.vstack([np.zeros((1, values)), *corners]))

    @property
    def points_nV(self) -> Floats:
        """The points found so far."""
        return self._known.points_nV

    @cached_property
    def _all_rows(self) -> ShareProgram | None:
        """The program over all rows, where it is faster than column generation."""
        rows = self.partition
        values = len(rows.points_VN)
        if not isinstance(rows, PromptMixture) or values <= MANY_VALUES or rows.points_VN.size > MAX_NUMBERS:
            return None
        return ShareProgram(rows.points_VN.T, rows.prompt_N, rows.weights_P)

    def maximise(self, gain_V: Floats, bound_V: Floats, extras: Extras | None = None) -> Optimum:
        """max gain.a + extra gain.u  over a in A and the extra unknowns u,  subject to  a + extra u >= bound.

        A bound of -inf leaves that level free. The points found so far must contain a feasible point of the program.
        The error of the optimum is at most LP_TOLERANCE.
        """
        if self._all_rows is not None:
            with self._all_rows.question(gain_V, bound_V, extras):
                return self._all_rows.optimum()
        with self._known.question(gain_V, bound_V, extras):
            while True:
                points_nV, best = self.points_nV, self._known.optimum()
                direction_V = gain_V + best.prices_V
                if not self.add_extreme_points(direction_V, above=float((points_nV @ direction_V).max())):
                    return best

    def add_point(self, level_V: Floats) -> None:
        """Add a level that is known to be feasible, such as a predicted level."""
        self._known.add_points(level_V[None])

    def add_extreme_points(self, direction_V: Floats, above: float) -> bool:
        """Add the points of A that maximise direction.a; False if the maximum is not above `above`, up to rounding."""
        extreme_nV = self.partition.extreme_points(direction_V)
        if direction_V @ extreme_nV[0] <= above + LP_TOLERANCE / 10 * max(1.0, np.abs(direction_V).sum()):
            return False
        self._known.add_points(extreme_nV)
        return True


def margin(feasible: FeasibleSet, target_V: Floats) -> tuple[float, Floats]:
    """t* = max { t : a >= c + t for some a in A } in sd, and its prices q >= 0, sum q = 1, with h(q) - q.c = t*.

    t* > 0: feasible, and every target could rise by t* sd. t* < 0: infeasible, and q proves it, because q.c > h(q).
    t* = inf when every value is free (c = -inf).
    """
    values = len(target_V)
    if not np.isfinite(target_V).any():
        return np.inf, np.zeros(values)
    nothing_V, raised_V1 = np.zeros(values), -np.ones((values, 1))
    best = feasible.maximise(nothing_V, clipped(target_V), Extras(np.ones(1), raised_V1, (-np.inf, np.inf)))
    return best.value, best.prices_V


def largest_step(feasible: FeasibleSet, start_V: Floats, direction_V: Floats, at_most: float) -> float:
    """rho* = max { rho <= at_most : a >= start + rho * direction for some a in A }; `start` itself must be feasible.

    With start = 0, the base level, and direction = c: rho* > 1 exactly when the dual of c has a maximum, rho* = 1 on
    the boundary, rho* < 1 when c is infeasible.
    """
    nothing_V, direction_V1 = np.zeros(len(start_V)), clipped(direction_V)[:, None]
    return feasible.maximise(nothing_V, start_V, Extras(np.ones(1), -direction_V1, (0.0, at_most))).value


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
