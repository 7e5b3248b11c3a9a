"""Three estimators of E_x log Z(x, lam) from base samples, behind one interface (method section 2).

    pooled       log sum_n w_n exp(lam.z_n)
    per_prompt   sum_x pi_x log mean_{k in x} exp(lam.z_xk)
    centered     lam.E z + log sum_n w_n exp(lam.d_n),    d_xk = (z_xk - mean_k z_xk) * sqrt(K_x / (K_x - 1))

with w_n = 1/N, pi_x = K_x/N the weight of prompt x in the data. Each is convex and smooth in lam; its gradient is the
realized level, its Hessian the covariance under the tilted distribution.

Everything here is standardised, z = (r - E r) / sd(r), so lam is in 1/sd and levels are in sd above the base level.
Legend: N rows, P prompts, V values, K_x samples of prompt x.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mapft.errors import UserError
from mapft.palette.matrix import ROUNDING, Groups, RewardMatrix, mean_and_sd

Floats = NDArray[np.float64]
Estimator = Literal["centered", "pooled", "per_prompt"]
ESTIMATORS: tuple[Estimator, ...] = ("centered", "pooled", "per_prompt")
CUTS = 16  # rows that one look in a direction contributes to a linear program
BLOCK = 1 << 16  # rows per block, so that temporaries stay small beside the matrix


class Tilt(NamedTuple):
    """p_lam on the samples: E_x log Z (nats) and the weight of each row (sums to 1)."""

    log_z: float
    weights_N: Floats

    @property
    def ess(self) -> float:
        """Effective sample size 1 / sum_n w_n^2, in rows."""
        return float(1 / (self.weights_N @ self.weights_N))


@dataclass(frozen=True, eq=False)
class Frame:
    """The standardisation z = (r - base) / scale of a matrix; scale is the sd, and 1 where the value is constant."""

    base_V: Floats
    scale_V: Floats
    constant_V: NDArray[np.bool_]

    @classmethod
    def of(cls, scores_NV: Floats) -> Frame:
        base_V, sd_V = mean_and_sd(scores_NV)
        return cls(base_V, np.where(sd_V > 0, sd_V, 1.0), sd_V == 0)


@dataclass(frozen=True, eq=False)
class Mixture:
    """One simplex over all rows: E_x log Z = lam.shift + log sum_n exp(lam.z_n + log w_n), `pooled` and `centered`.

    shift = sum_x pi_x mean_x, where means_VP are the prompt means taken out of the points (None: none taken out).
    """

    points_VN: Floats
    log_weights_N: Floats
    shift_V: Floats
    means_VP: Floats | None
    groups: Groups

    def tilt(self, lam_V: Floats) -> Tilt:
        """E_x log Z and the tilted weights w_n exp(lam.z_n) / sum, by log-sum-exp."""
        weights_N = lam_V @ self.points_VN
        weights_N += self.log_weights_N
        top = weights_N.max()
        weights_N -= top
        np.exp(weights_N, out=weights_N)
        total = weights_N.sum()
        weights_N /= total
        return Tilt(float(top + np.log(total) + lam_V @ self.shift_V), weights_N)

    def mean(self, tilt: Tilt) -> Floats:
        """Realized level (V,): the gradient of E_x log Z."""
        return self.shift_V + self.points_VN @ tilt.weights_N

    def covariance(self, tilt: Tilt) -> Floats:
        """Covariance (V, V) under the tilt: the Hessian of E_x log Z."""
        mean_V = self.points_VN @ tilt.weights_N
        return _second_moment(self.points_VN, tilt.weights_N) - np.outer(mean_V, mean_V)

    def furthest(self, direction_V: Floats) -> Floats:
        """Attainable levels (n, V) furthest along a direction, the first being the maximiser: the best rows."""
        gain_N = direction_V @ self.points_VN
        count = min(CUTS, len(gain_N))
        rows = np.argpartition(gain_N, len(gain_N) - count)[len(gain_N) - count :]
        rows = rows[np.argsort(-gain_N[rows])]
        return self.shift_V + self.points_VN[:, rows].T

    def only(self, rows: NDArray[np.intp]) -> Mixture:
        """The same estimator for a subset of the values."""
        if len(rows) == len(self.points_VN):
            return self
        means_VP = None if self.means_VP is None else self.means_VP[rows]
        return replace(self, points_VN=self.points_VN[rows], shift_V=self.shift_V[rows], means_VP=means_VP)

    def reweighted(self, weights_P: Floats) -> Mixture:
        """The same estimator with prompt x weighing weights_P[x] (sum 1, may be 0), shared equally by its rows."""
        with np.errstate(divide="ignore"):  # log 0 = -inf: a row that does not count
            log_weights_P = np.log(weights_P / self.groups.sizes)
        shift_V = self.shift_V if self.means_VP is None else self.means_VP @ weights_P
        return replace(self, log_weights_N=log_weights_P[self.groups.of_row], shift_V=shift_V)


@dataclass(frozen=True, eq=False)
class PromptMixture:
    """One simplex per prompt: E_x log Z = sum_x pi_x log mean_k exp(lam.z_xk). Rows are sorted by prompt."""

    points_VN: Floats
    starts_P: NDArray[np.intp]
    sizes_P: NDArray[np.intp]
    weights_P: Floats

    def tilt(self, lam_V: Floats) -> Tilt:
        """E_x log Z and the joint weights pi_x exp(lam.z_xk) / sum_k, by log-sum-exp per prompt."""
        weights_N = lam_V @ self.points_VN
        top_P = np.maximum.reduceat(weights_N, self.starts_P)
        weights_N -= np.repeat(top_P, self.sizes_P)
        np.exp(weights_N, out=weights_N)
        total_P = np.add.reduceat(weights_N, self.starts_P)
        weights_N *= np.repeat(self.weights_P / total_P, self.sizes_P)
        return Tilt(float(self.weights_P @ (top_P + np.log(total_P / self.sizes_P))), weights_N)

    def mean(self, tilt: Tilt) -> Floats:
        """Realized level (V,): the gradient of E_x log Z."""
        return self.points_VN @ tilt.weights_N

    def covariance(self, tilt: Tilt) -> Floats:
        """E_x Var (V, V) under the tilt: the Hessian of E_x log Z."""
        sums_VP = np.add.reduceat(self.points_VN * tilt.weights_N, self.starts_P, axis=1)
        occupied_P = self.weights_P > 0
        sums_VP = sums_VP[:, occupied_P]
        return _second_moment(self.points_VN, tilt.weights_N) - (sums_VP / self.weights_P[occupied_P]) @ sums_VP.T

    def furthest(self, direction_V: Floats) -> Floats:
        """The attainable level (1, V) that maximises direction.level: the best row of every prompt, averaged."""
        gain_N = direction_V @ self.points_VN
        top_N = np.repeat(np.maximum.reduceat(gain_N, self.starts_P), self.sizes_P)
        row_N = np.where(gain_N == top_N, np.arange(len(gain_N)), len(gain_N))
        return (self.points_VN[:, np.minimum.reduceat(row_N, self.starts_P)] @ self.weights_P)[None]

    def only(self, rows: NDArray[np.intp]) -> PromptMixture:
        """The same estimator for a subset of the values."""
        return self if len(rows) == len(self.points_VN) else replace(self, points_VN=self.points_VN[rows])

    def reweighted(self, weights_P: Floats) -> PromptMixture:
        """The same estimator with prompt x weighing weights_P[x] (sum 1)."""
        return replace(self, weights_P=weights_P)


Partition = Mixture | PromptMixture


def choose_estimator(matrix: RewardMatrix, estimator: Estimator | None) -> Estimator:
    """`centered` when every prompt has two samples or more, else `pooled` with a warning; refuses what K = 1 lacks."""
    if estimator is not None and estimator not in ESTIMATORS:
        raise UserError(f"there is no estimator {estimator!r}: use one of {', '.join(ESTIMATORS)}.")
    single = int((matrix.groups.sizes == 1).sum())
    if single and estimator in ("centered", "per_prompt"):
        raise UserError(
            f"{single} of {len(matrix.groups.sizes)} prompts have one sample only, and the {estimator} estimator needs "
            f"at least two per prompt to tell prompts from responses: draw more samples or use estimator='pooled'."
        )
    if single and estimator is None:
        warnings.warn(
            f"{single} of {len(matrix.groups.sizes)} prompts have one sample only, so lambda comes from the pooled "
            "estimator, which may re-weight prompts; a policy cannot, so the levels it realizes can fall short of the "
            "promised ones: draw two or more samples per prompt, or pass estimator='pooled' to accept this.",
            UserWarning,
            stacklevel=3,
        )
        return "pooled"
    return estimator or "centered"


def partition_of(matrix: RewardMatrix, estimator: Estimator) -> tuple[Partition, Frame]:
    """The estimator of E_x log Z on a matrix, in standardised units, and the frame that leads back to raw units."""
    frame, groups, rows = Frame.of(matrix.scores), matrix.groups, len(matrix)
    order = groups.order if estimator == "per_prompt" else slice(None)
    points_VN = _standardised(matrix.scores[order], frame)
    if estimator == "per_prompt":
        return PromptMixture(points_VN, groups.starts, groups.sizes, groups.sizes / rows), frame
    means_VP = _centre(points_VN, groups) if estimator == "centered" else None
    return Mixture(points_VN, np.full(rows, -np.log(rows)), np.zeros(len(points_VN)), means_VP, groups), frame


def _standardised(scores_NV: Floats, frame: Frame) -> Floats:
    points_VN = np.empty(scores_NV.shape[::-1])
    for rows in _blocks(len(scores_NV)):
        points_VN[:, rows] = ((scores_NV[rows] - frame.base_V) / frame.scale_V).T
    points_VN[frame.constant_V] = 0.0
    return points_VN


def _centre(points_VN: Floats, groups: Groups) -> Floats:
    """In place d_xk = (z_xk - mean_k z_xk) * sqrt(K_x / (K_x - 1)), unbiased covariance; returns the means (V, P)."""
    inflation_N = np.sqrt(groups.sizes / (groups.sizes - 1.0))[groups.of_row]
    means_VP = np.empty((len(points_VN), len(groups.sizes)))
    for z_N, mean_P in zip(points_VN, means_VP, strict=True):
        magnitude = np.abs(z_N).max()
        mean_P[:] = np.bincount(groups.of_row, weights=z_N) / groups.sizes
        z_N -= mean_P[groups.of_row]
        z_N *= inflation_N
        if np.abs(z_N).max() <= ROUNDING * magnitude:
            z_N[:] = 0.0
    return means_VP


def _second_moment(points_VN: Floats, weights_N: Floats) -> Floats:
    return sum(
        ((points_VN[:, rows] * weights_N[rows]) @ points_VN[:, rows].T for rows in _blocks(len(weights_N))),
        start=np.zeros((len(points_VN), len(points_VN))),
    )


def _blocks(rows: int) -> Iterator[slice]:
    return (slice(start, start + BLOCK) for start in range(0, rows, BLOCK))
