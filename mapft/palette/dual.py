"""From a score matrix and a palette to lambda: feasibility first, then the dual (method sections 1-3)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np

from mapft.palette.feasibility import UNDECIDED, Attainable, Certificate, margin, reach
from mapft.palette.matrix import ROUNDING, RewardMatrix
from mapft.palette.newton import Ascent, ascend
from mapft.palette.palette import Palette
from mapft.palette.partition import Estimator, Floats, choose_estimator, partition_of
from mapft.palette.solution import DualSolution, Status

CONVERGED = 1e-9  # largest KKT residual (sd units) of an optimal solution


def solve_dual(
    matrix: RewardMatrix,
    palette: Palette,
    *,
    estimator: Estimator | None = None,
    start: Mapping[str, float] | None = None,
) -> DualSolution:
    """lam* = argmax_{lam >= 0} lam.c - E_x log Z(x, lam): the least-KL policy p0 exp(lam.r) / Z that keeps the palette.

    estimator: of E_x log Z, with z = r: `pooled` log mean_N exp(lam.z); `per_prompt` mean over prompts of
    log mean_K exp(lam.z); `centered` lam.mean(z) + log mean_N exp(lam.d), d = (z - prompt mean) sqrt(K / (K - 1)).
    Default: centered when every prompt has two samples or more, else pooled with a warning.
    start: multipliers (raw units) from which to start, used where they beat 0.

    Values that the palette does not name are free: lam exactly 0, level still reported. An unattainable palette is a
    result, not an error: look at `status`. Raises UserError when the palette names a value that the matrix lacks, or
    the estimator needs more samples per prompt. Source: method sections 1-3.
    """
    return Dual(matrix, choose_estimator(matrix, estimator)).solve(palette, start)


def solve_many(
    matrix: RewardMatrix, palettes: Sequence[Palette], *, estimator: Estimator | None = None
) -> list[DualSolution]:
    """`solve_dual` for many palettes on one matrix; each starts from its predecessor and shares its linear programs."""
    dual = Dual(matrix, choose_estimator(matrix, estimator))
    solutions: list[DualSolution] = []
    start: Mapping[str, float] | None = None
    for palette in palettes:
        solutions.append(dual.solve(palette, start))
        start = solutions[-1].lam if solutions[-1].status is Status.optimal else start
    return solutions


class Dual:
    """The dual problems of one matrix under one estimator: what they share is computed once."""

    def __init__(self, matrix: RewardMatrix, estimator: Estimator) -> None:
        self.matrix = matrix
        self.estimator = estimator
        self.partition, self.frame = partition_of(matrix, estimator)

    @cached_property
    def attainable(self) -> Attainable:
        """The attainable levels; programs on it share the points they find."""
        return Attainable(self.partition)

    @cached_property
    def floor_V(self) -> Floats:
        """A level (V,) below every attainable one: a target under it is as slack, and keeps Newton's numbers small."""
        return self.partition.points_VN.min(axis=1) - 1.0

    def target(self, palette: Palette) -> Floats:
        """Targets (V,) in sd above the base level; -inf for a free value and for a constant value that is slack."""
        columns = self.matrix.index(list(palette.targets))
        target_V = np.full(len(self.matrix.values), -np.inf)
        target_V[columns] = list(palette.targets.values())
        reached_V = target_V <= self.frame.base_V + ROUNDING * np.abs(self.frame.base_V)
        target_V = (target_V - self.frame.base_V) / self.frame.scale_V
        return np.where(self.frame.constant_V, np.where(reached_V, -np.inf, np.inf), target_V)

    def solve(self, palette: Palette, start: Mapping[str, float] | None = None) -> DualSolution:
        """Feasibility by linear programming, then Newton's method where the maximum is attained."""
        target_V = self.target(palette)
        if (target_V == np.inf).any():  # a constant value below its target
            return self._without_policy(palette, Status.infeasible, -math.inf, (target_V == np.inf).astype(float))
        room, prices_V = margin(self.attainable, target_V) if (target_V > -np.inf).any() else (math.inf, target_V)
        if room < -UNDECIDED:
            return self._without_policy(palette, Status.infeasible, room, prices_V)
        if room <= UNDECIDED and self._at_the_edge(target_V):
            return self._without_policy(palette, Status.boundary, room, None)
        ascent = self.ascend(target_V, start)
        if ascent.kkt_residual > CONVERGED:
            return self._without_policy(palette, Status.boundary, room, None)
        return self._optimal(palette, room, target_V, ascent)

    def _at_the_edge(self, target_V: Floats) -> bool:
        """Whether the segment from the base level to the target ends there: the margin is 0 and lam runs to infinity.

        A margin of 0 alone does not say so: of two opposite values r and -r, at most one can rise, yet lam is finite.
        """
        held = np.isfinite(target_V)
        from_V, along_V = np.where(held, 0.0, -np.inf), np.where(held, target_V, 0.0)
        return reach(self.attainable, from_V, along_V, most=2.0) <= 1 + UNDECIDED

    def ascend(self, target_V: Floats, start: Mapping[str, float] | None = None) -> Ascent:
        """Newton's method over the constrained values only; the result is spread over all V values, lam 0 when free."""
        held = np.flatnonzero(np.isfinite(target_V))
        start_V = None
        if start is not None:
            start_V = np.array([start[name] for name in self.matrix.values]) * self.frame.scale_V
        asked_V = np.maximum(target_V, self.floor_V)[held]
        ascent = ascend(self.partition.only(held), asked_V, None if start_V is None else start_V[held])
        lam_V = np.zeros(len(target_V))
        lam_V[held] = ascent.lam_V
        return replace(ascent, lam_V=lam_V, realized_V=self.partition.mean(ascent.tilt))

    def _optimal(self, palette: Palette, room: float, target_V: Floats, ascent: Ascent) -> DualSolution:
        held = np.isfinite(target_V)
        slack_V = (ascent.realized_V - np.where(held, target_V, 0.0)) * held
        return DualSolution(
            lam=self._by_name(ascent.lam_V / self.frame.scale_V),
            status=Status.optimal,
            margin=room,
            certificate=None,
            realized=self._by_name(ascent.realized_V * self.frame.scale_V + self.frame.base_V),
            kl=max(float(ascent.lam_V @ ascent.realized_V - ascent.tilt.log_z), 0.0),  # rounding can dip below 0
            ess=float(1 / (ascent.tilt.weights_N @ ascent.tilt.weights_N)),
            duality_gap=abs(float(ascent.lam_V @ slack_V)),
            kkt_residual=ascent.kkt_residual,
            estimator=self.estimator,
            targets=dict(palette.targets),
            steps=ascent.steps,
        )

    def _without_policy(self, palette: Palette, status: Status, room: float, prices_V: Floats | None) -> DualSolution:
        nothing = dict.fromkeys(self.matrix.values, math.nan)
        certificate = None
        if prices_V is not None:
            weights = self._by_name(prices_V / self.frame.scale_V)
            named = {name: weights[name] for name in palette.targets}
            certificate = Certificate(named, palette.targets, self.estimator)
        return DualSolution(
            lam=nothing,
            status=status,
            margin=room,
            certificate=certificate,
            realized=dict(nothing),
            kl=math.nan,
            ess=math.nan,
            duality_gap=math.nan,
            kkt_residual=math.nan,
            estimator=self.estimator,
            targets=dict(palette.targets),
        )

    def _by_name(self, numbers_V: Floats) -> dict[str, float]:
        return dict(zip(self.matrix.values, numbers_V.tolist(), strict=True))
