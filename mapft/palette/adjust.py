"""The nearest palette that the base samples can keep, when the one asked for is out of reach (method section 3).

    interpolate    c' = c0 + rho (c - c0), the largest rho that one linear program allows; c0 the base level
    priority       the values in the user's order, each at min(its target, the largest level given those before it)
    least_change   the attainable c' <= c with the least weighted L1 or L2 distance from c, in sd

A target is never raised. The multipliers explode at the edge of what is attainable, so every new palette stops short
of it: only as far out as keeps the effective sample size at `floor_ess`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from mapft.errors import UserError
from mapft.palette.estimators import Estimator, choose_estimator
from mapft.palette.feasibility import margin, near
from mapft.palette.matrix import RewardMatrix
from mapft.palette.nearest import SHORT_OF_EDGE, Norm, by_priority, interpolated, least_change
from mapft.palette.palette import Palette
from mapft.palette.partition import Floats
from mapft.palette.problem import Problem
from mapft.palette.solution import DualSolution, Status

How = Literal["interpolate", "priority", "least_change"]
RETREATS = 50  # small steps back towards the base level, for targets whose rounding crosses the edge
DEFAULT_FLOOR = 30.0  # rows: below it lambda rests on a handful of samples


@dataclass(frozen=True)
class Adjustment:
    """An adjusted palette beside the one asked for.

    old, new: palettes over the same values. base: base level by value name. solution: the dual of `new`, optimal.
    binding: the values that stand in each other's way: those with a positive certificate weight when the old palette
    is unattainable (on the edge: a positive price of the margin), those with a positive multiplier when only its
    effective sample size is too small.
    """

    old: Palette
    new: Palette
    how: How
    binding: tuple[str, ...]
    base: dict[str, float]
    solution: DualSolution

    @property
    def changed(self) -> bool:
        """Whether any target moved."""
        return dict(self.old.targets) != dict(self.new.targets)

    def to_dict(self) -> dict[str, Any]:
        """Plain dict for JSON."""
        return {
            "how": self.how,
            "old": dict(self.old.targets),
            "new": dict(self.new.targets),
            "base": self.base,
            "binding": list(self.binding),
            "solution": self.solution.to_dict(),
        }


def adjust(
    matrix: RewardMatrix,
    palette: Palette,
    how: How = "interpolate",
    *,
    floor_ess: float | None = None,
    estimator: Estimator | None = None,
    order: Sequence[str] | None = None,
    weights: Mapping[str, float] | None = None,
    norm: Norm = "l1",
) -> Adjustment:
    """The nearest palette that is attainable with an effective sample size of at least `floor_ess` rows.

    how: `interpolate` one share of the way for all values; `priority` the first values first; `least_change` the
    smallest change. A palette that is attainable with enough effective samples is returned unchanged.
    floor_ess: rows; default 30, or half the rows where that is less.
    order: for `priority`, the palette's values, most important first; default the palette's own order.
    weights, norm: for `least_change`, the cost per sd of each value (default 1) and `l1`, which moves few values, or
    `l2`, which spreads the change.
    A constant value asked to rise is set to its level before anything else.

    Raises UserError for an unknown option, a floor that no palette meets, or a value that the matrix lacks.
    Source: method section 3.
    """
    _refuse_unknown(how, norm)
    problem = Problem(matrix, choose_estimator(matrix, estimator))
    floor = _checked_floor(floor_ess, len(matrix))
    columns = _checked_order(matrix, palette, order)
    cost_V = _checked_costs(matrix, palette, weights)
    asked = problem.solve(palette.targets)
    if asked.status is Status.optimal and asked.ess >= floor:
        return Adjustment(palette, palette, how, (), matrix.base, asked)
    target_V = problem.target(palette.targets)
    target_V = near(np.where(target_V == np.inf, 0.0, target_V))
    if how == "interpolate":
        new_V = interpolated(problem, target_V, floor)
    elif how == "priority":
        new_V = by_priority(problem, target_V, floor, columns)
    else:
        new_V = least_change(problem, target_V, floor, cost_V, norm)
    against = _obstacles(problem, asked, target_V)
    binding = tuple(name for name in palette.targets if against[name] > 0)
    for _ in range(RETREATS):
        new = _palette(problem, palette, new_V)
        solution = problem.solve(new.targets)
        if solution.status is Status.optimal:
            return Adjustment(palette, new, how, binding, matrix.base, solution)
        new_V = np.minimum(new_V, SHORT_OF_EDGE * new_V)
    raise UserError(
        f"no palette near {dict(palette.targets)} is attainable with certainty: its targets lie too close to the "
        "edge of what the samples can tell; ask for less, or sample more."
    )


def _obstacles(problem: Problem, asked: DualSolution, target_V: Floats) -> Mapping[str, float]:
    """By value name, how much each stands in the way: certificate weight, price of the margin, or multiplier."""
    if asked.certificate is not None:
        return asked.certificate
    if asked.status is Status.boundary:
        return problem.named(margin(problem.attainable, target_V)[1])
    return asked.lam


def _palette(problem: Problem, palette: Palette, new_V: Floats) -> Palette:
    """The new targets in raw units; a target that did not move keeps its exact number."""
    moved_V = new_V != problem.target(palette.targets)
    raw_V = new_V * problem.frame.scale_V + problem.frame.base_V
    columns = dict(zip(palette.targets, problem.matrix.index(list(palette.targets)), strict=True))
    return Palette(
        {
            name: float(raw_V[columns[name]]) if moved_V[columns[name]] else target
            for name, target in palette.targets.items()
        }
    )


def _refuse_unknown(how: str, norm: str) -> None:
    if how not in ("interpolate", "priority", "least_change"):
        raise UserError(f"there is no way to adjust called {how!r}: use interpolate, priority or least_change.")
    if norm not in ("l1", "l2"):
        raise UserError(f"the norm {norm!r} is unknown: use 'l1' or 'l2'.")


def _checked_floor(floor_ess: float | None, rows: int) -> float:
    floor = min(DEFAULT_FLOOR, rows / 2) if floor_ess is None else floor_ess
    if not 1 <= floor < rows:
        raise UserError(
            f"floor_ess is {floor:g}, but an effective sample size lies between 1 and the {rows} rows of the matrix: "
            "choose one in between."
        )
    return floor


def _checked_order(matrix: RewardMatrix, palette: Palette, order: Sequence[str] | None) -> list[int]:
    names = list(palette.targets) if order is None else list(order)
    if sorted(names) != sorted(palette.targets):
        raise UserError(
            f"the order is {{{', '.join(names)}}} but the palette names {{{', '.join(palette.targets)}}}: "
            "list every value of the palette once."
        )
    return matrix.index(names)


def _checked_costs(matrix: RewardMatrix, palette: Palette, weights: Mapping[str, float] | None) -> Floats:
    costs = {**dict.fromkeys(palette.targets, 1.0), **(weights or {})}
    if set(costs) != set(palette.targets) or not all(0 < cost < np.inf for cost in costs.values()):
        raise UserError(
            f"the weights {dict(weights or {})} must be positive numbers for values of the palette "
            f"{{{', '.join(palette.targets)}}}: correct the name or the number."
        )
    cost_V = np.ones(len(matrix.values))
    cost_V[matrix.index(list(costs))] = list(costs.values())
    return cost_V
