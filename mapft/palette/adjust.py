"""The nearest palette that the base samples can keep, when the one asked for is out of reach (method section 3).

interpolate    c' = c0 + rho * (c - c0), the largest rho that one linear program allows, where c0 is the base level

A target below its base level is kept as it is. The multipliers explode at the edge of what is attainable, so every
new palette stops short of it: as far out as keeps the effective sample size at `floor_ess`.

Legend: V values; targets in sd above the base level, -inf for a free value.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mapft.errors import UserError
from mapft.palette.feasibility import reach
from mapft.palette.matrix import RewardMatrix
from mapft.palette.palette import Palette
from mapft.palette.partition import Estimator, Floats, choose_estimator
from mapft.palette.problem import CONVERGED, Problem
from mapft.palette.solution import DualSolution, Status

How = Literal["interpolate"]
DEFAULT_FLOOR = 30.0  # rows: below it lambda rests on a handful of samples
SHORT_OF_EDGE = 0.99  # of the way out, where the effective sample size alone does not stop us earlier
BISECTIONS = 40


@dataclass(frozen=True)
class Adjustment:
    """An adjusted palette beside the one asked for.

    old, new: palettes over the same values. solution: the dual solved for `new`, optimal.
    binding: the values that stand in each other's way: those with a positive certificate weight when the old palette
    is unattainable, those with a positive multiplier when only its effective sample size is too small.
    kept: the share rho of the way from base level to old target, for `interpolate`.
    """

    old: Palette
    new: Palette
    how: How
    binding: tuple[str, ...]
    kept: float
    base: dict[str, float]
    solution: DualSolution

    @property
    def changed(self) -> bool:
        """Whether any target moved."""
        return dict(self.old.targets) != dict(self.new.targets)


def adjust(
    matrix: RewardMatrix,
    palette: Palette,
    how: How = "interpolate",
    *,
    floor_ess: float | None = None,
    estimator: Estimator | None = None,
) -> Adjustment:
    """The nearest palette that is attainable with an effective sample size of at least `floor_ess` rows.

    how="interpolate": c' = c0 + rho (c - c0), one rho for all values; c0 the base level.
    floor_ess: rows, default 30 or half the rows, whichever is less. A palette that is attainable with that much is
    returned unchanged. A constant value asked to rise is set to its level, and the other values are then adjusted.

    Raises UserError for an unknown `how`, a floor that no palette meets, or a value that the matrix lacks.
    Source: method section 3.
    """
    if how != "interpolate":
        raise UserError(f"there is no way to adjust called {how!r}: use 'interpolate'.")
    problem = Problem(matrix, choose_estimator(matrix, estimator))
    floor = _checked_floor(floor_ess, len(matrix))
    asked = problem.solve(palette.targets)
    if asked.status is Status.optimal and asked.ess >= floor:
        return Adjustment(palette, palette, how, (), 1.0, matrix.base, asked)
    target_V = problem.target(palette.targets)
    kept, new_V = _interpolated(problem, np.where(target_V == np.inf, 0.0, target_V), floor)
    new = _palette(problem, palette, new_V)
    weights = asked.lam if asked.certificate is None else asked.certificate
    binding = tuple(name for name in palette.targets if weights[name] > 0)
    return Adjustment(palette, new, how, binding, kept, matrix.base, problem.solve(new.targets))


def _interpolated(problem: Problem, target_V: Floats, floor: float) -> tuple[float, Floats]:
    """The largest rho with an effective sample size of at least `floor`, and the targets there."""
    from_V = np.minimum(target_V, 0.0)
    along_V = np.maximum(target_V, 0.0)
    edge = reach(problem.attainable, from_V, along_V, most=1.0 / SHORT_OF_EDGE)
    rho = _furthest(problem, lambda rho: from_V + rho * along_V, edge * SHORT_OF_EDGE, floor)
    return rho, from_V + rho * along_V


def _furthest(problem: Problem, path: Callable[[float], Floats], end: float, floor: float) -> float:
    """The largest step in [0, end] at which p_lam still has the effective sample size, which falls along the path."""

    def enough(step: float) -> bool:
        ascent = problem.ascend(path(step))
        weights_N = ascent.tilt.weights_N
        return ascent.kkt_residual <= CONVERGED and floor * float(weights_N @ weights_N) <= 1

    if enough(end):
        return end
    low, high = 0.0, end
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if enough(middle) else (low, middle)
    return low


def _palette(problem: Problem, palette: Palette, new_V: Floats) -> Palette:
    """The new targets in raw units; a target that did not move keeps its exact number."""
    old_V = problem.target(palette.targets)
    raw_V = new_V * problem.frame.scale_V + problem.frame.base_V
    columns = dict(zip(palette.targets, problem.matrix.index(list(palette.targets)), strict=True))
    return Palette(
        {
            name: target if new_V[columns[name]] == old_V[columns[name]] else float(raw_V[columns[name]])
            for name, target in palette.targets.items()
        }
    )


def _checked_floor(floor_ess: float | None, rows: int) -> float:
    floor = min(DEFAULT_FLOOR, rows / 2) if floor_ess is None else floor_ess
    if not 1 <= floor < rows:
        raise UserError(
            f"floor_ess is {floor:g}, but an effective sample size lies between 1 and the {rows} rows of the matrix: "
            "choose one in between."
        )
    return floor
