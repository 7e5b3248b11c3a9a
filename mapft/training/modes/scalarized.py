"""Baseline: PPO on a fixed mixture of the values. One weight is RLHF on one value; random weights are MORLHF."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

from mapft.config import ModeConfig
from mapft.config.fields import require, setting
from mapft.palette import at_kl
from mapft.utils.errors import UserError


@dataclass(kw_only=True)
class Scalarized(ModeConfig):
    """PPO towards p_lam with lam = t * weights / sd, and t such that KL(p_lam || p0) = kl."""

    weights: dict[str, float] = setting(factory=dict, help="Weight of each value, per sd; 0 for other values.")
    kl: float | None = setting(
        None, "KL of the mixture's optimum to p0.", unit="nats", above=0, null="use the KL of the palette's optimum"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(any(self.weights.values()), "mode.weights", self.weights, "a weight above 0 for at least one value")
        for name, weight in self.weights.items():
            require(weight >= 0, f"mode.weights.{name}", weight, "at least 0")

    def check(self, config: Any, targets: Collection[str]) -> None:
        """UserError for a weight of a value without a reward."""
        super().check(config, targets)
        if unknown := sorted(set(self.weights) - set(config.rewards)):
            raise UserError(
                f"mode.weights names {', '.join(unknown)}, which has no reward (rewards: {', '.join(config.rewards)}); "
                "correct the name or add the reward."
            )

    def train(self, inputs: Any) -> dict[str, float] | None:
        """adapter/ and logs.jsonl in the run folder."""
        solution = inputs.solution
        lam = at_kl(inputs.matrix, self.weights, self.kl or solution.kl, estimator=solution.estimator)
        return fit_fixed(inputs, lam)


def fit_fixed(inputs: Any, lam: dict[str, float], kl_coef: float | None = None) -> dict[str, float]:
    """PPO towards p_lam from p0 without refinement of lam. kl_coef: replaces trainer.kl_coef."""
    from mapft.rewards.loader import RewardModels
    from mapft.training.fit import Objective, fit

    config = replace(inputs.config, refine=replace(inputs.config.refine, every=None))
    if kl_coef is not None:
        config = replace(config, trainer=replace(config.trainer, kl_coef=kl_coef))
    zero = dict.fromkeys(inputs.scores, 0.0)
    matrix = inputs.matrix
    objective = Objective(zero | lam, zero, inputs.solution.targets, matrix.base, matrix.sd)
    prompts, stored = inputs.prompts.training, inputs.pilot_groups()
    return dict(fit(config, RewardModels(inputs.scores), objective, prompts, stored, inputs.folder))
