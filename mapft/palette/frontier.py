"""What can be had at all: Pareto fronts at a given KL, and the region of two values (theorem 3, method section 3).

Among all policies within KL(p || p0) <= kappa, the one that maximises rho.level is p_lam with lam = t rho, t >= 0
chosen so that KL(p_lam || p0) = kappa; sweeping rho >= 0 sweeps the whole upper right of the front.

Legend: n points or directions, V values. Directions are in units of 1/sd, everything public is in raw units.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mapft.errors import UserError
from mapft.palette.estimators import Estimator, choose_estimator
from mapft.palette.feasibility import EXACT
from mapft.palette.matrix import RewardMatrix
from mapft.palette.palette import Palette
from mapft.palette.partition import Floats, Partition
from mapft.palette.problem import Problem
from mapft.palette.solution import Status

LONGEST = 2.0**20  # |lam| in 1/sd: beyond it p_lam sits on the best samples and its KL has stopped growing
SAME_KL = 1e-11  # relative error of a KL that was asked for
MOST_STEPS = 200  # the samples of 1500 worlds of every shape took 41 at most
LEAST_KL = 1e-3  # nats; below it the rounding of log Z, about 1e-15, is the limit


@dataclass(frozen=True, eq=False)
class Front:
    """Points of a Pareto front, one row each, columns in the order of `values`.

    directions_nV: rho >= 0 per sd, summing to 1. lam_nV: nats per raw unit. levels_nV: realized, raw units.
    kl_n: nats; below the requested KL where the samples cannot move further in that direction.
    """

    values: tuple[str, ...]
    directions_nV: Floats
    lam_nV: Floats
    levels_nV: Floats
    kl_n: Floats

    def to_dict(self) -> dict[str, Any]:
        """Plain dict for JSON."""
        return {
            "values": list(self.values),
            "directions": self.directions_nV.tolist(),
            "lam": self.lam_nV.tolist(),
            "levels": self.levels_nV.tolist(),
            "kl": self.kl_n.tolist(),
        }


def pareto_front(
    matrix: RewardMatrix,
    values: Sequence[str],
    n: int = 50,
    *,
    kl: float = 1.0,
    estimator: Estimator | None = None,
) -> Front:
    """argmax rho.E r over the policies within `kl` nats of p0, for n directions rho >= 0 over the named values.

    Two values are swept in equal angles; with more, the corners come first and the rest is drawn evenly from the
    simplex, the same ones every time. Values not named are free. Raises UserError for an unknown or repeated value, n
    below the number of values, or a KL that is not positive. Source: theorem 3.
    """
    _check_front(values, n, kl)
    problem = Problem(matrix, choose_estimator(matrix, estimator))
    columns = np.array(matrix.index(values))
    partition, scale_V = problem.partition.only(columns), problem.frame.scale_V[columns]
    directions_nV = _directions(len(values), n)
    lam_nV = np.array([_length(partition, rho_V, kl) * rho_V for rho_V in directions_nV])
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
    matrix: RewardMatrix, weights: Mapping[str, float], kl: float, *, estimator: Estimator | None = None
) -> dict[str, float]:
    """lam (nats per raw unit) = t * weights / sd with KL(p_lam || p0) = kl nats: how far a direction goes for a price.

    weights: >= 0, per sd; values that are not named have none, and a value whose scores are constant gets 0. Raises
    UserError for an unknown value, a negative weight, none above 0, or a KL that is not positive or beyond the
    samples. Source: theorem 3.
    """
    wrong = [f"{name}={weight}" for name, weight in weights.items() if not 0 <= weight < np.inf]
    if wrong or not any(weights.values()):
        raise UserError(
            f"weights {', '.join(wrong) or 'of 0'} give no direction: all are at least 0, and one is above."
        )
    if not kl > 0:
        raise UserError(f"kl is {kl}: a policy lies at a positive distance from the base policy, for example 1.0 nats.")
    problem = Problem(matrix, choose_estimator(matrix, estimator))
    columns = np.array(matrix.index(list(weights)))
    movable_V = ~problem.frame.constant_V[columns]
    direction_V = np.array(list(weights.values()), dtype=float) * movable_V
    if not direction_V.any():
        raise UserError(f"the scores of {', '.join(weights)} are constant: no policy on the samples moves them.")
    direction_V /= direction_V.sum()
    length = _length(problem.partition.only(columns), direction_V, kl)
    if length >= LONGEST:
        raise UserError(
            f"kl is {kl:.3g}, and no policy on these samples goes so far in the direction of {', '.join(weights)}: "
            "draw more samples per prompt, or ask for less."
        )
    return dict(zip(weights, (length * direction_V / problem.frame.scale_V[columns]).tolist(), strict=True))


def _check_front(values: Sequence[str], n: int, kl: float) -> None:
    if len(set(values)) != len(values) or not values:
        raise UserError(f"the front's values are {list(values)}: name each value once.")
    if n < len(values):
        raise UserError(f"n is {n}, fewer directions than the {len(values)} values: ask for {len(values)} or more.")
    if not kl > 0:
        raise UserError(f"kl is {kl}: a front lies at a positive distance from the base policy, for example 1.0 nats.")


def _directions(values: int, n: int) -> Floats:
    """n directions (n, V) >= 0 with sum 1."""
    if values == 2:
        angle_n = np.linspace(0, np.pi / 2, n)
        directions_nV = np.column_stack([np.cos(angle_n), np.sin(angle_n)]).clip(min=0.0)
    else:
        inner_nV = np.random.default_rng(0).exponential(size=(n - values, values))
        directions_nV = np.vstack([np.eye(values), inner_nV])
    return directions_nV / directions_nV.sum(axis=1, keepdims=True)


def _length(partition: Partition, direction_V: Floats, kl: float) -> float:
    """t with KL(p_{t rho} || p0) = kl, at most LONGEST; the KL rises with t, at the rate t Var(rho.z).

    Newton's method on sqrt(2 KL), which is t sd(rho.z) for Gaussian scores, within a bracket that doubles or halves
    where a step leaves it.
    """
    ray, wanted = partition.along(direction_V), math.sqrt(2 * kl)
    variance = float(ray.covariance(ray.tilt(np.zeros(1)))[0, 0])
    if variance <= 0:
        return LONGEST
    low, high, length = 0.0, math.inf, min(wanted / math.sqrt(variance), LONGEST)
    for _ in range(MOST_STEPS):
        lam_1 = np.array([length])
        tilt = ray.tilt(lam_1)
        found = float(lam_1 @ ray.mean(tilt)) - tilt.log_z
        if abs(found - kl) <= SAME_KL * max(kl, LEAST_KL) or high - low <= SAME_KL * length:
            break
        if found < kl:
            if length >= LONGEST:
                break
            low = length
        else:
            high = length
        rise = length * float(ray.covariance(tilt)[0, 0])
        distance = math.sqrt(2 * max(found, 0.0))
        step = length + (wanted - distance) * distance / rise if rise > 0 else math.inf
        length = step if low < step < min(high, 2 * length) else min(2 * length, (low + high) / 2, LONGEST)
    return length


def feasible_region(
    matrix: RewardMatrix,
    first: str,
    second: str,
    *,
    others: Palette | None = None,
    estimator: Estimator | None = None,
    tolerance: float = 1e-2,
) -> Floats:
    """Corners (n, 2), counter-clockwise, of the levels (E r_first, E r_second) attainable while `others` are kept.

    Each corner is a linear program in one direction; edges are refined until no attainable level lies more than
    `tolerance` sd outside the polygon. Targets of `others` for the two values themselves are left aside.
    Raises UserError when `others` alone is not attainable. Source: method section 3.
    """
    if not tolerance > 0:
        raise UserError(f"tolerance is {tolerance}: the region's edges are found to within some sd, for example 0.01.")
    if first == second:
        raise UserError(f"the region of {first!r} against itself is a line: name two different values.")
    problem = Problem(matrix, choose_estimator(matrix, estimator))
    pair = np.array(matrix.index([first, second]))
    kept = {name: c for name, c in (others.targets if others else {}).items() if name not in (first, second)}
    verdict = problem.feasibility(kept)
    if verdict.status is not Status.optimal:
        raise UserError(f"the other targets {kept} are {verdict.status} by themselves: adjust() them first.")
    floor_V = problem.target(kept)

    def corner(direction_2: Floats) -> Floats:
        gain_V = np.zeros(len(floor_V))
        gain_V[pair] = direction_2
        return problem.attainable.maximise(gain_V, floor_V).level_V[pair]

    compass = [corner(np.array(axis)) for axis in ((1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0))]
    ring: list[Floats] = []
    for start_2, end_2 in zip(compass, [*compass[1:], compass[0]], strict=True):
        ring += _refined(corner, start_2, end_2, tolerance)
    return np.array(_hull(ring)) * problem.frame.scale_V[pair] + problem.frame.base_V[pair]


def _refined(corner: Callable[[Floats], Floats], start_2: Floats, end_2: Floats, tolerance: float) -> list[Floats]:
    """Corners from `start` up to but without `end`: look outwards from the edge, and split it where there is more."""
    along_2 = end_2 - start_2
    length = float(np.hypot(*along_2))
    if length <= tolerance:
        return [start_2]
    outwards_2 = np.array([along_2[1], -along_2[0]]) / length
    found_2 = corner(outwards_2)
    if outwards_2 @ (found_2 - start_2) <= tolerance:
        return [start_2]
    return _refined(corner, start_2, found_2, tolerance) + _refined(corner, found_2, end_2, tolerance)


def _hull(ring: list[Floats]) -> list[tuple[float, float]]:
    """Corners of the convex hull, counter-clockwise; points on an edge are left out (Andrew's monotone chain)."""
    points = sorted({(float(x), float(y)) for x, y in ring})
    return points if len(points) < 3 else _lower_hull(points)[:-1] + _lower_hull(points[::-1])[:-1]


def _lower_hull(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    chain: list[tuple[float, float]] = []
    for x, y in points:
        while len(chain) > 1:
            (x0, y0), (x1, y1) = chain[-2:]
            if (x1 - x0) * (y - y0) - (y1 - y0) * (x - x0) > EXACT:
                break
            chain.pop()
        chain.append((x, y))
    return chain
