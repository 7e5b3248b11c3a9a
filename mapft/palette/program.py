"""Linear programs over shares of known points, with HiGHS, which starts from the last answer where it can.

Legend: V values, n points, P simplices, U extra unknowns.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import highspy
import numpy as np

from mapft.palette.partition import Floats

LP_TOLERANCE = 1e-10  # the smallest that HiGHS accepts
OPTIONS: dict[str, bool | int | float | str] = {
    "output_flag": False,
    "presolve": "off",
    "threads": 1,
    "primal_feasibility_tolerance": LP_TOLERANCE,
    "dual_feasibility_tolerance": LP_TOLERANCE,
}
DUAL, PRIMAL = 1, 4  # simplex strategies of HiGHS


class Extras(NamedTuple):
    """Extra unknowns u of a program: the gain of each, what each adds to the levels, and the range of all."""

    gain_U: Floats
    levels_VU: Floats
    range: tuple[float, float] = (0.0, np.inf)


class Optimum(NamedTuple):
    """Solution of a program: its value, the level a, the extra unknowns u, the price of each bound (>= 0)."""

    value: float
    level_V: Floats
    extra_U: Floats
    prices_V: Floats


class ShareProgram:
    """max gain.a + extra gain.u  over shares >= 0 and u,  a = sum_n share_n point_n,  subject to  a + extra u >= bound.

    Answers one question at a time. The shares of the points of each simplex sum to its total. points_nV: all points
    known so far. simplex_n: number of the simplex of each, by default all of one, whose total is 1.
    """

    def __init__(self, points_nV: Floats, simplex_n: np.ndarray | None = None, totals_P: Floats | None = None) -> None:
        values = points_nV.shape[1]
        totals_P = np.ones(1) if totals_P is None else totals_P
        self.points_nV: Floats = np.zeros((0, values))
        self._gain_V, self._extras = np.zeros(values), np.zeros(0, int)
        self._highs = highspy.Highs()
        for name, option in OPTIONS.items():
            self._highs.setOptionValue(name, option)
        free_V = np.full(values, np.inf)
        lower, upper = np.concatenate([-free_V, totals_P]), np.concatenate([free_V, totals_P])
        self._highs.addRows(len(lower), lower, upper, 0, np.zeros(len(lower), int), np.zeros(0, int), np.zeros(0))
        self.add_points(points_nV, simplex_n)

    def add_points(self, points_nV: Floats, simplex_n: np.ndarray | None = None) -> None:
        """Add points of these simplices, by default of the first one."""
        simplex_n = np.zeros(len(points_nV), int) if simplex_n is None else simplex_n
        rows_nV = np.broadcast_to(np.arange(points_nV.shape[1]), points_nV.shape)
        rows = np.hstack([rows_nV, points_nV.shape[1] + simplex_n[:, None]])
        entries = np.hstack([points_nV, np.ones((len(points_nV), 1))])
        self._add_columns(points_nV @ self._gain_V, (0.0, np.inf), rows, entries)
        self.points_nV = np.vstack([self.points_nV, points_nV])

    @contextmanager
    def question(self, gain_V: Floats, bound_V: Floats, extras: Extras | None = None) -> Iterator[None]:
        """Inside, `optimum` answers this. A bound of -inf leaves that level free."""
        points = len(self.points_nV)
        self._gain_V, self._extras = gain_V, np.arange(points, points + (len(extras.gain_U) if extras else 0))
        for row, bound in enumerate(bound_V):
            _checked(self._highs.changeRowBounds(row, bound, np.inf))
        _checked(self._highs.changeColsCost(points, np.arange(points), -(self.points_nV @ gain_V)))
        if extras:
            rows = np.broadcast_to(np.arange(len(bound_V)), extras.levels_VU.T.shape)
            self._add_columns(extras.gain_U, extras.range, rows, extras.levels_VU.T)
        try:
            yield
        finally:
            _checked(self._highs.deleteCols(len(self._extras), self._extras))

    def optimum(self) -> Optimum:
        """The answer over the points known so far. Raises ArithmeticError where there is none."""
        solved = self._solved()
        if not solved:  # stuck where it started, or another program in this thread has started HiGHS with more threads
            self._highs.clearSolver()
            self._highs.setOptionValue("simplex_strategy", DUAL)
            self._highs.setOptionValue("threads", 0)
            solved = self._solved()
        if not solved:
            reason = self._highs.modelStatusToString(self._highs.getModelStatus())
            raise ArithmeticError(f"the linear program over {len(self.points_nV)} points failed: {reason}")
        self._highs.setOptionValue("simplex_strategy", PRIMAL)  # more points, and other gains, leave this one feasible
        solution = self._highs.getSolution()
        shares, values = np.array(solution.col_value), self.points_nV.shape[1]
        shares_n = np.delete(shares, self._extras)
        prices_V = np.maximum(np.array(solution.row_dual)[:values], 0.0)
        value = -self._highs.getObjectiveValue()
        return Optimum(value, shares_n @ self.points_nV, shares[self._extras], prices_V)

    def _solved(self) -> bool:
        self._highs.run()
        return self._highs.getModelStatus() == highspy.HighsModelStatus.kOptimal

    def _add_columns(self, gain: Floats, limits: tuple[float, float], rows: np.ndarray, entries: Floats) -> None:
        columns, each = entries.shape
        lower, upper = (np.full(columns, limit) for limit in limits)
        starts = np.arange(0, columns * each, each)
        matrix = (entries.size, starts, rows.ravel(), entries.ravel())
        _checked(self._highs.addCols(columns, -gain, lower, upper, *matrix))


def _checked(status: highspy.HighsStatus) -> None:
    if status == highspy.HighsStatus.kError:
        raise ArithmeticError("HiGHS refuses a number of the linear program")
