"""All values at once: PPO on lam.r against the base policy."""

from dataclasses import dataclass
from typing import Any, ClassVar

from mapft.config import ModeConfig, Residency
from mapft.config.fields import setting


@dataclass(kw_only=True)
class Simultaneous(ModeConfig):
    """All values at once: PPO on lam.r against the base policy, lam refined on its own rollouts.

    Every value is scored and logged, also those whose multiplier is 0.
    """

    aims_at_palette: ClassVar[bool] = True
    reward_models: Residency = setting(
        Residency.auto, "Where reward models wait while they do not score.", identity=False
    )

    @property
    def residency(self) -> Residency:
        """The setting."""
        return self.reward_models

    def train(self, inputs: Any) -> dict[str, float]:
        """adapter/, logs.jsonl and refinement.json in the run folder."""
        from mapft.rewards.loader import RewardModels
        from mapft.training.fit import Objective, fit

        solution = inputs.solution
        objective = Objective(solution.lam, dict.fromkeys(solution.lam, 0.0), solution.targets, inputs.matrix.sd)
        models = RewardModels(inputs.scores, self.reward_models)
        return dict(
            fit(inputs.config, models, objective, inputs.prompts.training, inputs.scored_samples, inputs.folder)
        )
