"""The nearest feasible palette, when the requested one is infeasible.

    interpolate    c' = c0 + rho (c - c0) with the largest rho that one linear program allows; c0 is the base level
    priority       the values in the user's order, each at min(its target, the largest level given those before it)
    least_change   the feasible c' <= c with the least weighted L1 or L2 distance from c, in sd

A target is never raised. The multipliers run to infinity at the boundary of the feasible set, so every new palette is
far enough inside it for an effective sample size of at least `floor_ess`.
Source: mapft/palette/README.md, "Adjusting an infeasible palette". The paper adjusts palettes in appendix B.2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from mapft.palette.estimators import Estimator, choose_estimator
from mapft.palette.feasibility import clipped, margin
from mapft.palette.matrix import ScoreMatrix
from mapft.palette.nearest import BOUNDARY_SHARE, Norm, by_priority, interpolated, least_change
from mapft.palette.palette import Palette
from mapft.palette.partition import Floats
from mapft.palette.problem import Problem
from mapft.palette.solution import DualSolution, Status
from mapft.utils.errors import UserError

Method = Literal["interpolate", "priority", "least_change"]
MAX_RETREATS = 50  # small steps back towards the base level, for targets whose rounding crosses the boundary
DEFAULT_FLOOR = 30.0  # rows; below it lambda depends on a handful of samples


@dataclass(frozen=True)
class Adjustment:
    """An adjusted palette and the requested one.

    old, new: palettes over the same values. base: base level by value name. solution: the dual of `new`, optimal.
    binding: the values that conflict: those with a positive certificate weight when the old palette is infeasible, with
    a positive price of the margin when it is on the boundary, with a positive multiplier when only its effective
    sample size is too small.
    """

    old: Palette
    new: Palette
    method: Method
    binding: tuple[str, ...]
    base: dict[str, float]
    solution: DualSolution


def adjust(
    matrix: ScoreMatrix,
    palette: Palette,
    method: Method = "interpolate",
    *,
    floor_ess: float | None = None,
    estimator: Estimator | None = None,
    order: Sequence[str] | None = None,
    weights: Mapping[str, float] | None = None,
    norm: Norm = "l1",
) -> Adjustment:
    """The nearest palette that is feasible with an effective sample size of at least `floor_ess` rows.

    method: `interpolate` moves all targets by the same share; `priority` lowers the last values first; `least_change`
    makes the smallest change. A palette that is feasible with enough effective samples is returned unchanged.
    floor_ess: rows; default 30, or half the rows where that is less.
    order: for `priority`, the palette's values, most important first; default the palette's own order.
    weights, norm: for `least_change`, the cost per sd of each value (default 1), and `l1`, which moves few values, or
    `l2`, which spreads the change.
    The target of a constant value above its level is set to that level first.

    Raises UserError for an unknown option, a floor that no palette meets, or a value that the matrix lacks.
    Source: mapft/palette/README.md, "Adjusting an infeasible palette".
    """
    _check_options(method, norm)
    problem = Problem(matrix, choose_estimator(matrix, estimator))
    floor = _checked_floor(floor_ess, len(matrix))
    columns = _checked_order(matrix, palette, order)
    cost_V = _checked_costs(matrix, palette, weights)
    requested = problem.solve(palette.targets)
    if requested.status is Status.optimal and requested.ess >= floor:
        return Adjustment(palette, palette, method, (), matrix.base, requested)
    target_V = problem.target(palette.targets)
    target_V = clipped(np.where(target_V == np.inf, 0.0, target_V))
    if method == "interpolate":
        new_V = interpolated(problem, target_V, floor)
    elif method == "priority":
        new_V = by_priority(problem, target_V, floor, columns)
    else:
        new_V = least_change(problem, target_V, floor, cost_V, norm)
    conflict = _conflict(problem, requested, target_V)
    binding = tuple(name for name in palette.targets if conflict[name] > 0)
    for _ in range(MAX_RETREATS):
        new = _palette(problem, palette, new_V)
        solution = problem.solve(new.targets)
        if solution.status is Status.optimal:
            return Adjustment(palette, new, method, binding, matrix.base, solution)
        new_V = np.minimum(new_V, BOUNDARY_SHARE * new_V)
    raise UserError(
        f"no feasible palette was found near {dict(palette.targets)}: its targets are so close to the boundary of the "
        "feasible levels that rounding decides; lower a target or generate more samples."
    )


def _conflict(problem: Problem, requested: DualSolution, target_V: Floats) -> Mapping[str, float]:
    """How much each value conflicts with the others: its certificate weight, price of the margin, or multiplier."""
    if requested.certificate is not None:
        return requested.certificate
    if requested.status is Status.boundary:
        return problem.named(margin(problem.feasible_set, target_V)[1])
    return requested.lam


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


def _check_options(method: str, norm: str) -> None:
    if method not in get_args(Method):
        raise UserError(f"the method {method!r} is unknown: use interpolate, priority or least_change.")
    if norm not in get_args(Norm):
        raise UserError(f"the norm {norm!r} is unknown: use 'l1' or 'l2'.")


def _checked_floor(floor_ess: float | None, rows: int) -> float:
    floor = min(DEFAULT_FLOOR, rows / 2) if floor_ess is None else floor_ess
    if not 1 <= floor < rows:
        raise UserError(
            f"floor_ess is {floor:g}, but the effective sample size of {rows} rows is between 1 and {rows}: "
            "choose a number between them."
        )
    return floor


def _checked_order(matrix: ScoreMatrix, palette: Palette, order: Sequence[str] | None) -> list[int]:
    names = list(palette.targets) if order is None else list(order)
    if sorted(names) != sorted(palette.targets):
        raise UserError(
            f"the order is {{{', '.join(names)}}} but the palette names {{{', '.join(palette.targets)}}}: "
            "list every value of the palette once."
        )
    return matrix.index(names)


def _checked_costs(matrix: ScoreMatrix, palette: Palette, weights: Mapping[str, float] | None) -> Floats:
    costs = {**dict.fromkeys(palette.targets, 1.0), **(weights or {})}
    if set(costs) != set(palette.targets) or not all(0 < cost < np.inf for cost in costs.values()):
        raise UserError(
            f"the weights {dict(weights or {})} must be positive numbers for values of the palette "
            f"{{{', '.join(palette.targets)}}}: correct the name or the number."
        )
    cost_V = np.ones(len(matrix.values))
    cost_V[matrix.index(list(costs))] = list(costs.values())
    return cost_V
