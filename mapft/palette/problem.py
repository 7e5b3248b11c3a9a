"""The MAP problems of one score matrix under one estimator: what all palettes on the matrix share.

The interface has named values and raw units; inside are arrays in standardised units.

Legend: V values of the matrix; levels and targets in sd above the base level, lam in 1/sd.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property

import numpy as np

from mapft.palette.estimators import Estimator, partition_of
from mapft.palette.feasibility import MARGIN_TOLERANCE, Certificate, FeasibleSet, largest_step, margin
from mapft.palette.matrix import ROUNDING, ScoreMatrix
from mapft.palette.newton import GOAL, KKT_TOLERANCE, Iterate, projected_newton
from mapft.palette.partition import Floats, Partition
from mapft.palette.solution import DualSolution, Status
from mapft.utils.errors import UserError


class Problem:
    """max over lam >= 0 of lam.c - E_x log Z(x, lam), for any palette c on one matrix and estimator."""

    def __init__(self, matrix: ScoreMatrix, estimator: Estimator) -> None:
        self.matrix = matrix
        self.estimator = estimator
        self.partition, self.frame = partition_of(matrix, estimator)

    @classmethod
    def of(cls, matrix: ScoreMatrix, solution: DualSolution) -> Problem:
        """The problem of a solution; raises UserError if the solution is not optimal or belongs to another matrix."""
        if solution.status is not Status.optimal:
            raise UserError(f"the palette is {solution.status} and has no lambda to analyse: adjust() it first.")
        if set(solution.lam) != set(matrix.values):
            raise UserError(
                f"the solution has the values {{{', '.join(solution.lam)}}} but the score matrix has "
                f"{{{', '.join(matrix.values)}}}: pass the matrix that was solved."
            )
        return cls(matrix, solution.estimator)

    def require_two_prompts(self) -> None:
        """Raises UserError for a single prompt: prompts are the independent units, and one has no spread."""
        if len(self.matrix.groups.sizes) < 2:
            raise UserError("all samples belong to one prompt, so errors cannot be estimated: use two prompts or more.")

    @cached_property
    def feasible_set(self) -> FeasibleSet:
        """The feasible levels; programs on it share the points they find."""
        return FeasibleSet(self.partition)

    @cached_property
    def _lowest_V(self) -> Floats:
        """Levels below every feasible one. A lower target is as slack, and would only make Newton's numbers larger."""
        points_VN = self.partition.points_VN
        return -2 * np.maximum(points_VN.max(axis=1), -points_VN.min(axis=1)) - 1

    def target(self, targets: Mapping[str, float]) -> Floats:
        """Targets (V,); -inf for a free value and a constant value that meets its target, +inf for one that cannot."""
        columns = self.matrix.index(list(targets))
        target_V = np.full(len(self.matrix.values), -np.inf)
        target_V[columns] = list(targets.values())
        met_V = target_V <= self.frame.base_V + ROUNDING * np.abs(self.frame.base_V)
        target_V = (target_V - self.frame.base_V) / self.frame.scale_V
        return np.where(self.frame.constant_V, np.where(met_V, -np.inf, np.inf), target_V)

    def lam(self, by_name: Mapping[str, float]) -> Floats:
        """Multipliers (V,) per sd from multipliers per raw unit."""
        return np.array([by_name[name] for name in self.matrix.values]) * self.frame.scale_V

    def named(self, numbers_V: Floats) -> dict[str, float]:
        """An array over the values as a dict by name."""
        return dict(zip(self.matrix.values, numbers_V.tolist(), strict=True))

    def solve(self, targets: Mapping[str, float]) -> DualSolution:
        """Feasibility by linear programming, then Newton's method where the dual has a maximum."""
        feasibility = self.feasibility(targets)
        if feasibility.status is not Status.optimal:
            return feasibility
        target_V = self.target(targets)
        iterate = self.maximise_dual(target_V)
        if not iterate.kkt_residual <= KKT_TOLERANCE:
            return replace(feasibility, status=Status.boundary)
        slack_V = np.where(np.isfinite(target_V), iterate.predicted_V - target_V, 0.0)
        return replace(
            feasibility,
            lam=self.named(iterate.lam_V / self.frame.scale_V),
            predicted=self.named(iterate.predicted_V * self.frame.scale_V + self.frame.base_V),
            kl=max(float(iterate.lam_V @ iterate.predicted_V - iterate.tilt.log_z), 0.0),  # rounding can be below 0
            ess=iterate.tilt.ess,
            duality_gap=abs(float(iterate.lam_V @ slack_V)),
            kkt_residual=iterate.kkt_residual,
            steps=iterate.steps,
        )

    def feasibility(self, targets: Mapping[str, float]) -> DualSolution:
        """Status, margin and certificate by linear programming alone, without multipliers."""
        target_V = self.target(targets)
        impossible_V = target_V == np.inf
        if impossible_V.any():
            return self._without_policy(targets, Status.infeasible, -math.inf, impossible_V.astype(float))
        distance, prices_V = margin(self.feasible_set, target_V)
        if distance < -MARGIN_TOLERANCE:
            return self._without_policy(targets, Status.infeasible, distance, prices_V)
        boundary = distance <= MARGIN_TOLERANCE and self._on_boundary(target_V)
        return self._without_policy(targets, Status.boundary if boundary else Status.optimal, distance)

    def maximise_dual(
        self, target_V: Floats, start_V: Floats | None = None, partition: Partition | None = None
    ) -> Iterate:
        """Newton's method over the values with a target; the result covers all V values, with lam 0 where free.

        start_V: where to start, by default 0. partition: a re-weighted or tilted version of this problem's own.
        """
        columns = np.flatnonzero(np.isfinite(target_V))
        partition = self.partition if partition is None else partition
        column_target_V = np.maximum(target_V, self._lowest_V)[columns]
        rounding = 4 * np.finfo(float).eps * float(np.abs(self.frame.base_V / self.frame.scale_V).max())
        goal = min(max(GOAL, rounding), KKT_TOLERANCE)
        start_V = None if start_V is None else start_V[columns]
        iterate = projected_newton(partition.restricted(columns), column_target_V, start_V, goal)
        lam_V = np.zeros(len(target_V))
        lam_V[columns] = iterate.lam_V
        return replace(iterate, lam_V=lam_V, predicted_V=partition.mean(iterate.tilt))

    def _on_boundary(self, target_V: Floats) -> bool:
        """Whether the segment from the base level through the target leaves the feasible set at the target.

        Then the dual has no maximum. A margin of 0 is not enough: of two opposite values r and -r at most one can
        rise, so that the margin is at most 0, but lam can be finite.
        """
        named_V = np.isfinite(target_V)
        direction_V = np.where(named_V, np.maximum(target_V, self._lowest_V), 0.0)
        start_V = np.where(named_V, 0.0, -np.inf)
        try:
            return largest_step(self.feasible_set, start_V, direction_V, at_most=2.0) <= 1 + MARGIN_TOLERANCE
        except ArithmeticError:  # targets that differ from feasible ones by rounding
            return True

    def _without_policy(
        self, targets: Mapping[str, float], status: Status, distance: float, prices_V: Floats | None = None
    ) -> DualSolution:
        """A solution whose numbers about a policy are all nan."""
        certificate = None
        if prices_V is not None:
            weights = self.named(prices_V / self.frame.scale_V)
            certificate = Certificate({name: weights[name] for name in targets}, targets, self.estimator)
        undefined = dict.fromkeys(self.matrix.values, math.nan)
        return DualSolution(
            lam=undefined,
            status=status,
            margin=distance,
            certificate=certificate,
            predicted=dict(undefined),
            kl=math.nan,
            ess=math.nan,
            duality_gap=math.nan,
            kkt_residual=math.nan,
            estimator=self.estimator,
            targets=dict(targets),
            single_samples=int((self.matrix.groups.sizes == 1).sum()),
        )
