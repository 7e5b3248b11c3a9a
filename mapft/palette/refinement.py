"""Multipliers refined on policy: the dual solved again on samples of the policy that training has reached.

Rollouts of pi, on its way to p_lam, take the place of the base samples (method section 9):

    delta = argmax_{delta >= -lam}  delta.c - E_x log E_{y~pi} exp(delta.r);    lam <- lam + delta

pi is close to where it has to be, so the problem is well conditioned, and at delta = 0 the levels that pi realizes are
the targets: the bias of a small pilot and what PPO has not yet learnt are both removed.

Legend: V values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mapft.palette.estimators import Estimator
from mapft.palette.matrix import RewardMatrix
from mapft.palette.newton import CONVERGED
from mapft.palette.palette import Palette
from mapft.palette.partition import Floats
from mapft.palette.problem import Problem

TRUSTED = 0.5  # share of the rollouts that must stay effective: further away they say little
HALVINGS = 20


@dataclass(frozen=True)
class Refinement:
    """One refinement; every dict is keyed by value name.

    lam: the new multipliers, nats per raw unit, >= 0. delta: what was added, exactly 0 for a free value.
    aim: share of the way from the rollouts' levels to the targets that the rollouts can answer for; 0 where they cannot
    answer at all, and lam stays. ess: effective number of rollouts under exp(delta.r).
    """

    lam: dict[str, float]
    delta: dict[str, float]
    aim: float
    ess: float


def refine(rollouts: RewardMatrix, palette: Palette, lam: Mapping[str, float]) -> Refinement:
    """lam + delta for the policy pi that was trained towards lam and drew the rollouts.

    Where the rollouts cannot answer for the targets (no multipliers reach them, or fewer than half of the rollouts
    would stay effective), the aim is halved until they can. The estimator is `centered` when every prompt has two
    rollouts or more, else `pooled`, which takes differences between prompts for room to move and so makes shorter
    steps; where delta comes to rest, both agree.
    Source: method section 9.
    """
    estimator: Estimator = "centered" if (rollouts.groups.sizes > 1).all() else "pooled"
    problem = Problem(rollouts, estimator)
    target_V, lam_V = problem.target(palette.targets), problem.lam(lam)
    still_V = (problem.partition.points_VN == 0).all(axis=1)  # a value that only prompts move is left as it is
    target_V = np.where(still_V, -np.inf, target_V)
    held_lam_V = np.where(np.isfinite(target_V), lam_V, 0.0)
    base = problem.partition.tilted(-held_lam_V)  # so that the new multipliers, not delta, are what is bounded by 0
    for aim in 0.5 ** np.arange(HALVINGS):
        ascent = problem.ascend(_aimed(target_V, aim), lam_V, base)
        if ascent.kkt_residual <= CONVERGED and ascent.tilt.ess >= TRUSTED * len(rollouts):
            new_V = np.where(np.isfinite(target_V), ascent.lam_V, lam_V)
            delta = problem.named((new_V - lam_V) / problem.frame.scale_V)
            return Refinement(problem.named(new_V / problem.frame.scale_V), delta, float(aim), ascent.tilt.ess)
    return Refinement(dict(lam), dict.fromkeys(rollouts.values, 0.0), 0.0, float(len(rollouts)))


def _aimed(target_V: Floats, aim: float) -> Floats:
    """Targets, in sd above the rollouts' level, at a share of their distance."""
    return np.where(np.isfinite(target_V), aim * target_V, target_V)
