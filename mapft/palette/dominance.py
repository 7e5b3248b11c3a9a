"""Comparing measured points: dominance and hypervolume; more is better in every value.

Legend: n points, V values, one common unit per value.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mapft.errors import UserError
from mapft.palette.partition import Floats


def non_dominated(levels: ArrayLike) -> NDArray[np.bool_]:
    """Which of n points (n, V) no other point dominates: none is at least as high in all values and higher in one."""
    levels_nV = _points(levels)
    at_least_nn = (levels_nV[:, None] >= levels_nV[None]).all(axis=2)
    higher_nn = (levels_nV[:, None] > levels_nV[None]).any(axis=2)
    return np.logical_not((at_least_nn & higher_nn).any(axis=0))


def hypervolume(levels: ArrayLike, reference: ArrayLike) -> float:
    """Volume of the union of the boxes between `reference` (V,) and each point (n, V), in the product of the units.

    Points that are not above the reference in every value count for nothing. Exact, by slicing along the last value.
    """
    levels_nV, reference_V = _points(levels), np.asarray(reference, dtype=np.float64)
    if reference_V.shape != levels_nV.shape[1:]:
        raise UserError(f"the reference has shape {reference_V.shape} but points have {levels_nV.shape[1]} value(s).")
    return _volume((levels_nV - reference_V)[(levels_nV > reference_V).all(axis=1)])


def _volume(sides_nV: Floats) -> float:
    if not len(sides_nV):
        return 0.0
    if sides_nV.shape[1] == 1:
        return float(sides_nV.max())
    sides_nV = sides_nV[non_dominated(sides_nV)]
    sides_nV = sides_nV[np.argsort(-sides_nV[:, -1])]
    thickness_n = sides_nV[:, -1] - np.append(sides_nV[1:, -1], 0.0)
    return sum(t * _volume(sides_nV[: i + 1, :-1]) for i, t in enumerate(thickness_n.tolist()) if t > 0)


def _points(levels: ArrayLike) -> Floats:
    levels_nV = np.asarray(levels, dtype=np.float64)
    if levels_nV.ndim != 2 or not np.isfinite(levels_nV).all():
        raise UserError(f"points of shape {levels_nV.shape} cannot be compared: give finite levels, one row per point.")
    return levels_nV
