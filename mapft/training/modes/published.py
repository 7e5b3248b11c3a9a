"""Baseline: the recipe of the paper's published code."""

from dataclasses import dataclass
from typing import Any

from mapft.config import ModeConfig
from mapft.config.fields import setting
from mapft.palette import Palette, Status, solve_dual
from mapft.training.modes.scalarized import fit_fixed
from mapft.utils.errors import UserError


@dataclass(kw_only=True)
class Published(ModeConfig):
    """PPO on reward lam.r at KL weight kl_coef, with lam of the pooled dual.

    Its optimum is p_{lam / kl_coef}, which overshoots p_lam for kl_coef < 1.
    """

    kl_coef: float = setting(0.2, "Weight of the KL.", above=0)

    def train(self, inputs: Any) -> dict[str, float]:
        """adapter/ and logs.jsonl in the run folder."""
        pooled = solve_dual(inputs.matrix, Palette(inputs.solution.targets), estimator="pooled")
        if pooled.status is not Status.optimal:
            raise UserError(f"The published recipe has no lambda for this palette: {pooled.status.sentence}")
        lam = {name: number / self.kl_coef for name, number in pooled.lam.items()}
        return fit_fixed(inputs, lam, self.kl_coef)
