"""Multipliers refined on policy: the dual solved again on rollouts of the policy that is being trained.

The policy pi was trained towards p_lam. Its rollouts take the place of the base samples:

    delta = argmax_{delta >= -lam}  delta.c - E_x log E_{y~pi} exp(delta.r);    lam <- lam + delta

delta = 0 where the levels of pi meet the palette at least cost. A missed target raises its multiplier, whether the
pilot was too small or PPO has not converged.
Source: mapft/palette/README.md, "Refinement on policy"; for one value, paper, equation 9.

Legend: V values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mapft.palette.estimators import Estimator
from mapft.palette.matrix import ScoreMatrix
from mapft.palette.newton import KKT_TOLERANCE
from mapft.palette.palette import Palette
from mapft.palette.partition import Floats
from mapft.palette.problem import Problem

MIN_ESS_SHARE = 0.5  # of the rollouts; a larger step extrapolates too far from them
MAX_HALVINGS = 20


@dataclass(frozen=True)
class Refinement:
    """One refinement; every dict is keyed by value name.

    lam: the new multipliers, nats per raw unit, >= 0. delta: lam minus the old one, exactly 0 for a free value.
    share: the share of the distance from the rollouts' levels to the targets that delta covers; 0 if lam is unchanged
    because the rollouts allow no step. ess: effective number of rollouts under exp(delta.r).
    """

    lam: dict[str, float]
    delta: dict[str, float]
    share: float
    ess: float


def refine(rollouts: ScoreMatrix, palette: Palette, lam: Mapping[str, float]) -> Refinement:
    """lam + delta for the policy that was trained towards lam and generated the rollouts.

    Where the targets are infeasible on the rollouts, or fewer than half of the rollouts would stay effective, the share
    of the distance to the targets is halved until the step is possible. The estimator is `centered` if every prompt has
    two rollouts or more, else `pooled`. `pooled` also re-weights prompts, so its steps are shorter; both have delta = 0
    for the same levels.
    Source: mapft/palette/README.md, "Refinement on policy".
    """
    estimator: Estimator = "centered" if (rollouts.groups.sizes > 1).all() else "pooled"
    problem = Problem(rollouts, estimator)
    target_V, lam_V = problem.target(palette.targets), problem.lam(lam)
    constant_V = (problem.partition.points_VN == 0).all(axis=1)  # within every prompt: no policy changes the level
    target_V = np.where(constant_V, -np.inf, target_V)
    old_lam_V = np.where(np.isfinite(target_V), lam_V, 0.0)
    base = problem.partition.tilted(-old_lam_V)  # on it the multipliers are lam + delta, so that lam + delta >= 0
    for share in 0.5 ** np.arange(MAX_HALVINGS):
        iterate = problem.maximise_dual(_at_share(target_V, share), lam_V, base)
        if iterate.kkt_residual <= KKT_TOLERANCE and iterate.tilt.ess >= MIN_ESS_SHARE * len(rollouts):
            new_V = np.where(np.isfinite(target_V), iterate.lam_V, lam_V)
            delta = problem.named((new_V - lam_V) / problem.frame.scale_V)
            return Refinement(problem.named(new_V / problem.frame.scale_V), delta, float(share), iterate.tilt.ess)
    return Refinement(dict(lam), dict.fromkeys(rollouts.values, 0.0), 0.0, float(len(rollouts)))


def _at_share(target_V: Floats, share: float) -> Floats:
    """Targets, in sd above the rollouts' levels, at a share of their distance; free values stay free."""
    return np.where(np.isfinite(target_V), share * target_V, target_V)
