"""E_x log Z(x, lam) from samples and its derivatives: one simplex over all rows, or one per prompt.

Both are convex and smooth in lam. The gradient is the predicted level, the Hessian is the covariance under p_lam.
estimators.py builds both from a score matrix. Scores are standardised, z = (r - E r) / sd, so lam is in 1/sd and levels
are in sd above the base level.

Legend: N rows, sorted by prompt; P prompts; V values; pi_x the weight of prompt x.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from mapft.palette.matrix import Groups

Floats = NDArray[np.float64]
MAX_EXTREME_POINTS = 16  # rows that one direction contributes to a linear program
BLOCK = 1 << 16  # rows


class Tilt(NamedTuple):
    """The exponential tilt p_lam on the samples: E_x log Z in nats, and the weights of the rows, which sum to 1."""

    log_z: float
    weights_N: Floats

    @property
    def ess(self) -> float:
        """Effective sample size 1 / sum_n w_n^2, in rows."""
        return float(1 / (self.weights_N @ self.weights_N))


@dataclass(frozen=True, eq=False)
class Mixture:
    """One simplex over all rows: E_x log Z = lam.shift + log sum_n w_n exp(lam.z_n), for `pooled` and `centered`.

    shift = sum_x pi_x mean_x with means_VP the prompt means that were subtracted from the points; 0 for `pooled`.
    """

    points_VN: Floats
    log_weights_N: Floats
    means_VP: Floats
    shift_V: Floats
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
        """Predicted level (V,): the gradient of E_x log Z."""
        return self.shift_V + self.points_VN @ tilt.weights_N

    def covariance(self, tilt: Tilt) -> Floats:
        """Covariance (V, V) under the tilt: the Hessian of E_x log Z."""
        mean_V1 = (self.points_VN @ tilt.weights_N)[:, None]
        return _second_moment(self.points_VN, tilt.weights_N, lambda rows: mean_V1)

    def influence(self, tilt: Tilt) -> Floats:
        """Influence (V, N) of each row on the predicted level at fixed lam; its mean under the base weights is 0."""
        excess_N = tilt.weights_N * np.exp(-self.log_weights_N)
        between_VP = self.means_VP - self.shift_V[:, None]
        within_VN = self.points_VN - (self.points_VN @ tilt.weights_N)[:, None]
        return excess_N * within_VN + np.repeat(between_VP, self.groups.sizes, axis=1)

    def extreme_points(self, direction_V: Floats) -> Floats:
        """The rows (n, V) with the largest direction.z, largest first: the first maximises it over feasible levels."""
        gain_N = direction_V @ self.points_VN
        count = min(MAX_EXTREME_POINTS, len(gain_N))
        rows = np.argpartition(gain_N, len(gain_N) - count)[len(gain_N) - count :]
        rows = rows[np.argsort(-gain_N[rows])]
        return self.shift_V + self.points_VN[:, rows].T

    def tilted(self, lam_V: Floats) -> Mixture:
        """The same estimator with p_lam as the base policy."""
        log_weights_N = lam_V @ self.points_VN + self.log_weights_N
        return replace(self, log_weights_N=log_weights_N - logsumexp(log_weights_N))

    def restricted(self, columns: NDArray[np.intp]) -> Mixture:
        """The same estimator for a subset of the values."""
        if len(columns) == len(self.points_VN):
            return self
        points_VN, means_VP, shift_V = self.points_VN[columns], self.means_VP[columns], self.shift_V[columns]
        return replace(self, points_VN=points_VN, means_VP=means_VP, shift_V=shift_V)

    def projected(self, direction_V: Floats) -> Mixture:
        """The same estimator for the one value direction.z."""
        points_1N, means_1P = (direction_V @ self.points_VN)[None], (direction_V @ self.means_VP)[None]
        return replace(self, points_VN=points_1N, means_VP=means_1P, shift_V=np.array([direction_V @ self.shift_V]))

    def reweighted(self, weights_P: Floats) -> Mixture:
        """The same estimator with weight weights_P[x] >= 0 on prompt x (sum 1), divided equally among its rows."""
        log_weights_N = np.repeat(_log(weights_P / self.groups.sizes), self.groups.sizes)
        return replace(self, log_weights_N=log_weights_N, shift_V=self.means_VP @ weights_P)


@dataclass(frozen=True, eq=False)
class PromptMixture:
    """One simplex per prompt: E_x log Z = sum_x pi_x log sum_k exp(lam.z_xk + log w_xk), for `per_prompt`."""

    points_VN: Floats
    log_weights_N: Floats
    weights_P: Floats
    groups: Groups

    def tilt(self, lam_V: Floats) -> Tilt:
        """E_x log Z and the joint weights pi_x w_xk exp(lam.z_xk) / sum_k, by log-sum-exp per prompt."""
        starts_P, sizes_P = self.groups.starts, self.groups.sizes
        weights_N = lam_V @ self.points_VN
        weights_N += self.log_weights_N
        top_P = np.maximum.reduceat(weights_N, starts_P)
        weights_N -= np.repeat(top_P, sizes_P)
        np.exp(weights_N, out=weights_N)
        total_P = np.add.reduceat(weights_N, starts_P)
        weights_N *= np.repeat(self.weights_P / total_P, sizes_P)
        return Tilt(float(self.weights_P @ (top_P + np.log(total_P))), weights_N)

    def mean(self, tilt: Tilt) -> Floats:
        """Predicted level (V,): the gradient of E_x log Z."""
        return self.points_VN @ tilt.weights_N

    def covariance(self, tilt: Tilt) -> Floats:
        """E_x Var (V, V) under the tilt: the Hessian of E_x log Z."""
        means_VP = self._prompt_means(tilt)
        prompt_N = np.repeat(np.arange(len(self.weights_P)), self.groups.sizes)
        return _second_moment(self.points_VN, tilt.weights_N, lambda rows: means_VP[:, prompt_N[rows]])

    def influence(self, tilt: Tilt) -> Floats:
        """Influence (V, N) of each row on the predicted level at fixed lam; its mean under the base weights is 0."""
        sizes_P = self.groups.sizes
        excess_N = tilt.weights_N * np.exp(-self.log_weights_N) / np.repeat(self.weights_P, sizes_P)
        means_VP = self._prompt_means(tilt)
        between_VP = means_VP - self.mean(tilt)[:, None]
        within_VN = self.points_VN - np.repeat(means_VP, sizes_P, axis=1)
        return excess_N * within_VN + np.repeat(between_VP, sizes_P, axis=1)

    def extreme_points(self, direction_V: Floats) -> Floats:
        """The feasible level (1, V) that maximises direction.level: the mean over prompts of each prompt's best row."""
        gain_N = direction_V @ self.points_VN
        top_N = np.repeat(np.maximum.reduceat(gain_N, self.groups.starts), self.groups.sizes)
        row_N = np.where(gain_N == top_N, np.arange(len(gain_N)), len(gain_N))
        return (self.points_VN[:, np.minimum.reduceat(row_N, self.groups.starts)] @ self.weights_P)[None]

    def tilted(self, lam_V: Floats) -> PromptMixture:
        """The same estimator with p_lam as the base policy."""
        log_weights_N = lam_V @ self.points_VN + self.log_weights_N
        log_total_P = np.logaddexp.reduceat(log_weights_N, self.groups.starts)
        return replace(self, log_weights_N=log_weights_N - np.repeat(log_total_P, self.groups.sizes))

    def restricted(self, columns: NDArray[np.intp]) -> PromptMixture:
        """The same estimator for a subset of the values."""
        return self if len(columns) == len(self.points_VN) else replace(self, points_VN=self.points_VN[columns])

    def projected(self, direction_V: Floats) -> PromptMixture:
        """The same estimator for the one value direction.z."""
        return replace(self, points_VN=(direction_V @ self.points_VN)[None])

    def reweighted(self, weights_P: Floats) -> PromptMixture:
        """The same estimator with weight weights_P[x] >= 0 on prompt x (sum 1)."""
        return replace(self, weights_P=weights_P)

    @property
    def prompt_N(self) -> np.ndarray:
        """Number of the prompt of each row."""
        return np.repeat(np.arange(len(self.weights_P)), self.groups.sizes)

    def _prompt_means(self, tilt: Tilt) -> Floats:
        """Predicted level (V, P) on each prompt; 0 on a prompt of weight 0."""
        sums_VP = np.add.reduceat(self.points_VN * tilt.weights_N, self.groups.starts, axis=1)
        return sums_VP / np.where(self.weights_P > 0, self.weights_P, 1.0)


Partition = Mixture | PromptMixture


def blocks(rows: int) -> Iterator[slice]:
    """Consecutive slices that cover the rows, to keep temporary arrays small."""
    return (slice(start, start + BLOCK) for start in range(0, rows, BLOCK))


def _log(weights_N: Floats) -> Floats:
    """log w, with log 0 = -inf and no warning."""
    with np.errstate(divide="ignore"):
        return np.log(weights_N)


def _second_moment(points_VN: Floats, weights_N: Floats, centre: Callable[[slice], Floats]) -> Floats:
    """sum_n w_n (z_n - centre)(z_n - centre)', block by block; positive semi-definite up to rounding."""
    total_VV = np.zeros((len(points_VN), len(points_VN)))
    for rows in blocks(len(weights_N)):
        offsets_VB = points_VN[:, rows] - centre(rows)
        total_VV += (offsets_VB * weights_N[rows]) @ offsets_VB.T
    return total_VV
