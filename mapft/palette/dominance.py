"""Pareto dominance between measured points; more is better in every value."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mapft.utils.errors import UserError


def non_dominated(levels: ArrayLike) -> NDArray[np.bool_]:
    """Which of n points (n, V) no other point dominates: none is at least as high in all V values and higher in one.

    Raises UserError for levels that are not finite or not of shape (n, V).
    """
    levels_nV = np.asarray(levels, dtype=np.float64)
    if levels_nV.ndim != 2 or not np.isfinite(levels_nV).all():
        raise UserError(f"points of shape {levels_nV.shape} cannot be compared: give finite levels, one row per point.")
    at_least_nn = (levels_nV[:, None] >= levels_nV[None]).all(axis=2)
    higher_nn = (levels_nV[:, None] > levels_nV[None]).any(axis=2)
    return np.logical_not((at_least_nn & higher_nn).any(axis=0))
