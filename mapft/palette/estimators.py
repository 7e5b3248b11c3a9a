"""Three estimators of E_x log Z(x, lam) from base samples.

    pooled       log sum_n w_n exp(lam.z_n)
    per_prompt   sum_x pi_x log mean_{k in x} exp(lam.z_xk)
    centered     lam.E z + log sum_n w_n exp(lam.d_n),    d_xk = (z_xk - mean_k z_xk) * sqrt(K_x / (K_x - 1))

with w_n = 1/N and pi_x = K_x/N, the weight of prompt x in the data; where every prompt has K samples, pi_x = 1/P.
`pooled` also re-weights prompts, which a policy cannot. Where every prompt has two samples or more, a value that never
differs within a prompt is constant for all three; with one sample that cannot be known.
Source: mapft/palette/README.md, "Three estimators", with their measured errors. `pooled` is equation 7 of the paper.

Legend: N rows, P prompts, V values, K_x samples of prompt x.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mapft.palette.matrix import ROUNDING, Groups, ScoreMatrix
from mapft.palette.partition import Floats, Mixture, Partition, PromptMixture, blocks
from mapft.utils.errors import UserError

Estimator = Literal["centered", "pooled", "per_prompt"]
ESTIMATORS: tuple[Estimator, ...] = ("centered", "pooled", "per_prompt")


@dataclass(frozen=True, eq=False)
class Frame:
    """The standardisation z = (r - base) / scale of a matrix; scale is the sd, or 1 for a constant value."""

    base_V: Floats
    scale_V: Floats
    constant_V: NDArray[np.bool_]

    @classmethod
    def of(cls, matrix: ScoreMatrix) -> Frame:
        """The mean and sd of a matrix."""
        base_V, sd_V = matrix.mean_and_sd
        return cls(base_V, np.where(sd_V > 0, sd_V, 1.0), sd_V == 0)


def choose_estimator(matrix: ScoreMatrix, estimator: Estimator | None) -> Estimator:
    """The given estimator; by default `centered` if every prompt has two samples or more, else `pooled` and a warning.

    Raises UserError for an unknown estimator, and for one that needs two samples per prompt when a prompt has one.
    """
    if estimator is not None and estimator not in ESTIMATORS:
        raise UserError(f"the estimator {estimator!r} is unknown: use one of {', '.join(ESTIMATORS)}.")
    single = int((matrix.groups.sizes == 1).sum())
    if single and estimator in ("centered", "per_prompt"):
        raise UserError(
            f"{single} of {len(matrix.groups.sizes)} prompts have one sample only, but the {estimator} estimator needs "
            "two or more to separate prompts from responses: generate more samples or use estimator='pooled'."
        )
    if single and estimator is None:
        warnings.warn(
            f"{single} of {len(matrix.groups.sizes)} prompts have one sample only, so lambda comes from the pooled "
            "estimator. It may re-weight prompts, which a policy cannot, so realized levels can be below the predicted "
            "ones: generate two or more samples per prompt, or pass estimator='pooled' to accept this.",
            UserWarning,
            stacklevel=3,
        )
        return "pooled"
    return estimator or "centered"


def partition_of(matrix: ScoreMatrix, estimator: Estimator) -> tuple[Partition, Frame]:
    """The estimator of E_x log Z on a matrix in standardised units, and the frame that converts to raw units."""
    frame, groups = Frame.of(matrix), matrix.groups
    points_VN = _standardised(matrix.scores, frame, groups)
    values, rows, prompts = *points_VN.shape, len(groups.sizes)
    if estimator == "per_prompt":
        log_weights_N = np.repeat(-np.log(groups.sizes), groups.sizes)
        return PromptMixture(points_VN, log_weights_N, groups.sizes / rows, groups), frame
    means_VP = np.broadcast_to(0.0, (values, prompts))
    if estimator == "centered":
        means_VP = _centre(points_VN, groups)
    elif groups.sizes.min() > 1:
        centred_VN = points_VN.copy()
        _centre(centred_VN, groups)
        points_VN[~centred_VN.any(axis=1)] = 0.0
    return Mixture(points_VN, np.full(rows, -np.log(rows)), means_VP, np.zeros(values), groups), frame


def _standardised(scores_NV: Floats, frame: Frame, groups: Groups) -> Floats:
    """z = (r - base) / scale as (V, N), rows sorted by prompt."""
    points_VN = np.empty(scores_NV.shape[::-1])
    for rows in blocks(len(scores_NV)):
        points_VN[:, rows] = ((scores_NV[groups.order[rows]] - frame.base_V) / frame.scale_V).T
    points_VN[frame.constant_V] = 0.0
    return points_VN


def _centre(points_VN: Floats, groups: Groups) -> Floats:
    """In place d_xk = (z_xk - mean_k z_xk) * sqrt(K_x / (K_x - 1)), so covariances are unbiased; the means (V, P)."""
    inflation_N = np.repeat(np.sqrt(groups.sizes / (groups.sizes - 1.0)), groups.sizes)
    means_VP = np.empty((len(points_VN), len(groups.sizes)))
    for z_N, mean_P in zip(points_VN, means_VP, strict=True):
        magnitude = np.abs(z_N).max()
        mean_P[:] = np.add.reduceat(z_N, groups.starts) / groups.sizes
        z_N -= np.repeat(mean_P, groups.sizes)
        z_N *= inflation_N
        if np.abs(z_N).max() <= ROUNDING * magnitude:
            z_N[:] = 0.0
    return means_VP
