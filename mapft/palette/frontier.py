"""Pareto fronts at a given KL, and the feasible region of two values.

Among all policies within KL(p || p0) <= kappa, the one that maximises rho.level is p_lam with lam = t rho, t >= 0
chosen so that KL(p_lam || p0) = kappa. All rho >= 0 together give the part of the Pareto front with lam >= 0.
Source: paper, theorem 3.

Legend: n points or directions, V values. Directions are in units of 1/sd, everything public is in raw units.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mapft.palette.estimators import Estimator, choose_estimator
from mapft.palette.feasibility import LP_TOLERANCE
from mapft.palette.matrix import ScoreMatrix
from mapft.palette.palette import Palette
from mapft.palette.partition import Floats, Partition
from mapft.palette.problem import Problem
from mapft.palette.solution import Status
from mapft.utils.errors import UserError

MAX_LAM = 2.0**20  # 1/sd; beyond it p_lam has its weight on the best samples and its KL is constant
KL_TOLERANCE = 1e-11  # relative, of a requested KL
MAX_STEPS = 200
MIN_KL = 1e-3  # nats; for a smaller KL the tolerance is absolute, because log Z is rounded at about 1e-15


@dataclass(frozen=True, eq=False)
class Front:
    """Points of a Pareto front, one row each, columns in the order of `values`.

    directions_nV: rho >= 0 per sd, summing to 1. lam_nV: nats per raw unit. levels_nV: predicted, raw units.
    kl_n: nats; less than the requested KL where the samples allow no more in that direction.
    """

    values: tuple[str, ...]
    directions_nV: Floats
    lam_nV: Floats
    levels_nV: Floats
    kl_n: Floats


def pareto_front(
    matrix: ScoreMatrix,
    values: Sequence[str],
    n: int = 50,
    *,
    kl: float = 1.0,
    estimator: Estimator | None = None,
) -> Front:
    """argmax rho.E r over the policies within `kl` nats of p0, for n directions rho >= 0 over the named values.

    Two values: equal angles. More values: the corners of the simplex, then uniform random directions with a fixed
    seed. Values not named are free. Raises UserError for an unknown or repeated value, n below the number of values, or
    a KL that is not positive. Source: paper, theorem 3.
    """
    _check_front(values, n, kl)
    problem = Problem(matrix, choose_estimator(matrix, estimator))
    columns = np.array(matrix.index(values))
    partition, scale_V = problem.partition.restricted(columns), problem.frame.scale_V[columns]
    directions_nV = _directions(len(values), n)
    lam_nV = np.array([_scale_at_kl(partition, rho_V, kl) * rho_V for rho_V in directions_nV])
    lam_nV[:, problem.frame.constant_V[columns]] = 0.0
    tilts = [partition.tilt(lam_V) for lam_V in lam_nV]
    levels_nV = np.array([partition.mean(tilt) for tilt in tilts])
    return Front(
        values=tuple(values),
        directions_nV=directions_nV,
        lam_nV=lam_nV / scale_V,
        levels_nV=levels_nV * scale_V + problem.frame.base_V[columns],
        kl_n=(lam_nV * levels_nV).sum(axis=1) - [tilt.log_z for tilt in tilts],
    )


def at_kl(
    matrix: ScoreMatrix, weights: Mapping[str, float], kl: float, *, estimator: Estimator | None = None
) -> dict[str, float]:
    """lam = t * weights / sd, nats per raw unit, with t >= 0 such that KL(p_lam || p0) = kl nats.

    weights: >= 0, per sd; 0 for values that are not named. A value whose scores are constant gets lam 0.
    Raises UserError for an unknown value, a negative weight, weights that are all 0, or a KL that is not positive or
    larger than the samples allow. Source: paper, theorem 3.
    """
    invalid = [f"{name}={weight}" for name, weight in weights.items() if not 0 <= weight < np.inf]
    if invalid or not any(weights.values()):
        raise UserError(
            f"the weights {', '.join(invalid) or 'are all 0 and'} give no direction: use finite numbers of at least 0, "
            "with one above 0."
        )
    if not kl > 0:
        raise UserError(f"kl={kl} is invalid: give a positive number of nats, for example 1.0.")
    problem = Problem(matrix, choose_estimator(matrix, estimator))
    columns = np.array(matrix.index(list(weights)))
    movable_V = ~problem.frame.constant_V[columns]
    direction_V = np.array(list(weights.values()), dtype=float) * movable_V
    if not direction_V.any():
        raise UserError(
            f"the scores of {', '.join(weights)} are constant, so no policy changes them: give weight to another value."
        )
    direction_V /= direction_V.sum()
    scale = _scale_at_kl(problem.partition.restricted(columns), direction_V, kl)
    if scale >= MAX_LAM:
        raise UserError(
            f"kl={kl:.3g} nats cannot be reached on these samples in the direction of {', '.join(weights)}: generate "
            "more samples per prompt, or lower kl."
        )
    return dict(zip(weights, (scale * direction_V / problem.frame.scale_V[columns]).tolist(), strict=True))


def _check_front(values: Sequence[str], n: int, kl: float) -> None:
    if len(set(values)) != len(values) or not values:
        raise UserError(f"the front's values are {list(values)}: name each value once.")
    if n < len(values):
        raise UserError(f"n={n} is invalid: use at least {len(values)}, one direction per value.")
    if not kl > 0:
        raise UserError(f"kl={kl} is invalid: give a positive number of nats, for example 1.0.")


def _directions(values: int, n: int) -> Floats:
    """n directions (n, V) >= 0 with sum 1."""
    if values == 2:
        angle_n = np.linspace(0, np.pi / 2, n)
        directions_nV = np.column_stack([np.cos(angle_n), np.sin(angle_n)]).clip(min=0.0)
    else:
        inner_nV = np.random.default_rng(0).exponential(size=(n - values, values))
        directions_nV = np.vstack([np.eye(values), inner_nV])
    return directions_nV / directions_nV.sum(axis=1, keepdims=True)


def _scale_at_kl(partition: Partition, direction_V: Floats, kl: float) -> float:
    """t with KL(p_{t rho} || p0) = kl, at most MAX_LAM. The KL increases with t, at the rate t Var(rho.z).

    Newton's method on sqrt(2 KL), which equals t sd(rho.z) for Gaussian scores. A step that leaves the bracket is
    replaced by doubling or bisection.
    """
    projected, root_kl = partition.projected(direction_V), math.sqrt(2 * kl)
    variance = float(projected.covariance(projected.tilt(np.zeros(1)))[0, 0])
    if variance <= 0:
        return MAX_LAM
    low, high, scale = 0.0, math.inf, min(root_kl / math.sqrt(variance), MAX_LAM)
    for _ in range(MAX_STEPS):
        lam_1 = np.array([scale])
        tilt = projected.tilt(lam_1)
        current_kl = float(lam_1 @ projected.mean(tilt)) - tilt.log_z
        if abs(current_kl - kl) <= KL_TOLERANCE * max(kl, MIN_KL) or high - low <= KL_TOLERANCE * scale:
            break
        if current_kl < kl:
            if scale >= MAX_LAM:
                break
            low = scale
        else:
            high = scale
        rise = scale * float(projected.covariance(tilt)[0, 0])
        current_root = math.sqrt(2 * max(current_kl, 0.0))
        step = scale + (root_kl - current_root) * current_root / rise if rise > 0 else math.inf
        scale = step if low < step < min(high, 2 * scale) else min(2 * scale, (low + high) / 2, MAX_LAM)
    return scale


def feasible_region(
    matrix: ScoreMatrix,
    first: str,
    second: str,
    *,
    others: Palette | None = None,
    estimator: Estimator | None = None,
    tolerance: float = 1e-2,
) -> Floats:
    """Corners (n, 2), counter-clockwise, of the levels (E r_first, E r_second) feasible together with `others`.

    Each corner is a linear program in one direction. Edges are refined until no feasible level is more than
    `tolerance` sd outside the polygon. Targets of `others` for the two values themselves are ignored.
    Raises UserError when `others` is infeasible. Source: mapft/palette/README.md, "Feasibility".
    """
    if not tolerance > 0:
        raise UserError(f"tolerance={tolerance} is invalid: give a positive number of sd, for example 0.01.")
    if first == second:
        raise UserError(f"the region of {first!r} and itself is a line: name two different values.")
    problem = Problem(matrix, choose_estimator(matrix, estimator))
    pair = np.array(matrix.index([first, second]))
    fixed = {name: c for name, c in (others.targets if others else {}).items() if name not in (first, second)}
    status = problem.feasibility(fixed).status
    if status is not Status.optimal:
        raise UserError(f"the targets {fixed} of the other values are {status} by themselves: adjust() them first.")
    bound_V = problem.target(fixed)

    def corner(direction_2: Floats) -> Floats:
        gain_V = np.zeros(len(bound_V))
        gain_V[pair] = direction_2
        return problem.feasible_set.maximise(gain_V, bound_V).level_V[pair]

    compass = [corner(np.array(axis)) for axis in ((1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0))]
    corners: list[Floats] = []
    for start_2, end_2 in zip(compass, [*compass[1:], compass[0]], strict=True):
        corners += _refined(corner, start_2, end_2, tolerance)
    return np.array(_hull(corners)) * problem.frame.scale_V[pair] + problem.frame.base_V[pair]


def _refined(corner: Callable[[Floats], Floats], start_2: Floats, end_2: Floats, tolerance: float) -> list[Floats]:
    """Corners from `start` up to but without `end`: search outwards from the edge, and split it at a point beyond."""
    edge_2 = end_2 - start_2
    length = float(np.hypot(*edge_2))
    if length <= tolerance:
        return [start_2]
    outwards_2 = np.array([edge_2[1], -edge_2[0]]) / length
    middle_2 = corner(outwards_2)
    if outwards_2 @ (middle_2 - start_2) <= tolerance:
        return [start_2]
    return _refined(corner, start_2, middle_2, tolerance) + _refined(corner, middle_2, end_2, tolerance)


def _hull(corners: list[Floats]) -> list[tuple[float, float]]:
    """Corners of the convex hull, counter-clockwise, without points on an edge (Andrew's monotone chain).

    scipy's ConvexHull fails on a point or a segment and keeps points that are on an edge up to rounding.
    """
    points = sorted({(float(x), float(y)) for x, y in corners})
    return points if len(points) < 3 else _lower_hull(points)[:-1] + _lower_hull(points[::-1])[:-1]


def _lower_hull(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    chain: list[tuple[float, float]] = []
    for x, y in points:
        while len(chain) > 1:
            (x0, y0), (x1, y1) = chain[-2:]
            if (x1 - x0) * (y - y0) - (y1 - y0) * (x - x0) > LP_TOLERANCE:
                break
            chain.pop()
        chain.append((x, y))
    return chain
