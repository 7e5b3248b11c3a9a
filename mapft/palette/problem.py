"""The MAP problems of one score matrix under one estimator: what every palette on it shares (method sections 1-3).

Named values and raw units outside, arrays in standardised units inside; this file is the border between the two.

Legend: V values of the matrix; levels and targets in sd above the base level, lam in 1/sd.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property

import numpy as np

from mapft.errors import UserError
from mapft.palette.estimators import Estimator, partition_of
from mapft.palette.feasibility import UNDECIDED, Attainable, Certificate, margin, reach
from mapft.palette.matrix import ROUNDING, RewardMatrix
from mapft.palette.newton import CONVERGED, SHARP, Ascent, ascend
from mapft.palette.partition import Floats, Partition
from mapft.palette.solution import DualSolution, Status


class Problem:
    """max over lam >= 0 of lam.c - E_x log Z(x, lam), for any palette c on one matrix and estimator."""

    def __init__(self, matrix: RewardMatrix, estimator: Estimator) -> None:
        self.matrix = matrix
        self.estimator = estimator
        self.partition, self.frame = partition_of(matrix, estimator)

    @classmethod
    def of(cls, matrix: RewardMatrix, solution: DualSolution) -> Problem:
        """The problem that a solution solves; raises UserError when it is not optimal or not about this matrix."""
        if solution.status is not Status.optimal:
            raise UserError(f"the palette is {solution.status}, so there is no lambda to examine: adjust() it first.")
        if set(solution.lam) != set(matrix.values):
            raise UserError(
                f"the solution is about {{{', '.join(solution.lam)}}} but the score matrix holds "
                f"{{{', '.join(matrix.values)}}}: pass the matrix that was solved."
            )
        return cls(matrix, solution.estimator)

    def refuse_one_prompt(self) -> None:
        """Raises UserError: prompts are the independent draws, and one of them says nothing about their spread."""
        if len(self.matrix.groups.sizes) < 2:
            raise UserError("all samples answer one prompt, which shows no spread between prompts: sample two or more.")

    @cached_property
    def attainable(self) -> Attainable:
        """The attainable levels; programs on it share the points they find."""
        return Attainable(self.partition)

    @cached_property
    def _floor_V(self) -> Floats:
        """Levels below every attainable one: a target under them is as slack, and keeps Newton's numbers small."""
        points_VN = self.partition.points_VN
        return -2 * np.maximum(points_VN.max(axis=1), -points_VN.min(axis=1)) - 1

    def target(self, targets: Mapping[str, float]) -> Floats:
        """Targets (V,); -inf for a free value and a constant value that keeps its target, +inf for one that cannot."""
        columns = self.matrix.index(list(targets))
        target_V = np.full(len(self.matrix.values), -np.inf)
        target_V[columns] = list(targets.values())
        kept_V = target_V <= self.frame.base_V + ROUNDING * np.abs(self.frame.base_V)
        target_V = (target_V - self.frame.base_V) / self.frame.scale_V
        return np.where(self.frame.constant_V, np.where(kept_V, -np.inf, np.inf), target_V)

    def lam(self, by_name: Mapping[str, float]) -> Floats:
        """Multipliers (V,) per sd from multipliers per raw unit."""
        return np.array([by_name[name] for name in self.matrix.values]) * self.frame.scale_V

    def _start(self, by_name: Mapping[str, float]) -> Floats:
        """Multipliers to start from: 0 for a value that is not named, or whose number is of no use."""
        lam_V = np.array([by_name.get(name, 0.0) for name in self.matrix.values]) * self.frame.scale_V
        return np.where(np.isfinite(lam_V) & (lam_V > 0), lam_V, 0.0)

    def named(self, numbers_V: Floats) -> dict[str, float]:
        """An array over the values as a dict by name."""
        return dict(zip(self.matrix.values, numbers_V.tolist(), strict=True))

    def solve(self, targets: Mapping[str, float], start: Mapping[str, float] | None = None) -> DualSolution:
        """Feasibility by linear programming, then Newton's method where the maximum is attained."""
        verdict = self.feasibility(targets)
        if verdict.status is not Status.optimal:
            return verdict
        ascent = self.ascend(self.target(targets), None if start is None else self._start(start))
        if not ascent.kkt_residual <= CONVERGED:
            return replace(verdict, status=Status.boundary)
        return self.described(verdict, ascent)

    def feasibility(self, targets: Mapping[str, float]) -> DualSolution:
        """Status, margin and certificate by linear programming alone; no multipliers yet."""
        target_V = self.target(targets)
        blocked_V = target_V == np.inf
        if blocked_V.any():
            return self._verdict(targets, Status.infeasible, -math.inf, blocked_V.astype(float))
        room, prices_V = margin(self.attainable, target_V)
        if room < -UNDECIDED:
            return self._verdict(targets, Status.infeasible, room, prices_V)
        at_the_edge = room <= UNDECIDED and self._at_the_edge(target_V)
        return self._verdict(targets, Status.boundary if at_the_edge else Status.optimal, room)

    def ascend(self, target_V: Floats, start_V: Floats | None = None, partition: Partition | None = None) -> Ascent:
        """Newton's method over the constrained values; the result covers all V values, with lam 0 where free.

        partition: a reweighted version of this problem's own, for resampling.
        """
        held = np.flatnonzero(np.isfinite(target_V))
        whole = self.partition if partition is None else partition
        asked_V = np.maximum(target_V, self._floor_V)[held]
        rounding = 4 * np.finfo(float).eps * float(np.abs(self.frame.base_V / self.frame.scale_V).max())
        sharp = min(max(SHARP, rounding), CONVERGED)
        ascent = ascend(whole.only(held), asked_V, None if start_V is None else start_V[held], sharp)
        lam_V = np.zeros(len(target_V))
        lam_V[held] = ascent.lam_V
        return replace(ascent, lam_V=lam_V, realized_V=whole.mean(ascent.tilt))

    def described(self, verdict: DualSolution, ascent: Ascent) -> DualSolution:
        """The verdict with everything that is known about the policy at `ascent`."""
        target_V = self.target(verdict.targets)
        slack_V = np.where(np.isfinite(target_V), ascent.realized_V - target_V, 0.0)
        return replace(
            verdict,
            lam=self.named(ascent.lam_V / self.frame.scale_V),
            realized=self.named(ascent.realized_V * self.frame.scale_V + self.frame.base_V),
            kl=max(float(ascent.lam_V @ ascent.realized_V - ascent.tilt.log_z), 0.0),  # rounding can dip below 0
            ess=ascent.tilt.ess,
            duality_gap=abs(float(ascent.lam_V @ slack_V)),
            kkt_residual=ascent.kkt_residual,
            steps=ascent.steps,
        )

    def _at_the_edge(self, target_V: Floats) -> bool:
        """Whether the segment from the base level to the target ends there: the margin is 0 and lam runs to infinity.

        A margin of 0 alone does not say so: of two opposite values r and -r, at most one can rise, yet lam is finite.
        """
        held = np.isfinite(target_V)
        from_V, along_V = np.where(held, 0.0, -np.inf), np.where(held, target_V, 0.0)
        try:
            return reach(self.attainable, from_V, along_V, most=2.0) <= 1 + UNDECIDED
        except ArithmeticError:  # targets that differ by rounding alone from attainable ones
            return True

    def _verdict(
        self, targets: Mapping[str, float], status: Status, room: float, prices_V: Floats | None = None
    ) -> DualSolution:
        """A result without a policy: every number that would describe one is nan."""
        certificate = None
        if prices_V is not None:
            weights = self.named(prices_V / self.frame.scale_V)
            certificate = Certificate({name: weights[name] for name in targets}, targets, self.estimator)
        nothing = dict.fromkeys(self.matrix.values, math.nan)
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
            targets=dict(targets),
        )
