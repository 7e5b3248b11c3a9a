"""All values at once: PPO on lam.r against the base policy."""

from collections.abc import Mapping
from pathlib import Path

from mapft.align.fit import Aim, fit
from mapft.config import Config, SimultaneousMode
from mapft.palette import DualSolution
from mapft.rewards import Score
from mapft.rewards.loader import RewardModels
from mapft.sampling.prompts import Prompt


def train(
    config: Config,
    scores: Mapping[str, Score],
    solution: DualSolution,
    sd: Mapping[str, float],
    prompts: list[Prompt],
    run: Path,
) -> dict[str, float]:
    """Move the policy to p_lam and leave its adapter, logs.jsonl and refinement.json in the run folder.

    Every value is scored and logged, so that a slack one is seen sinking.
    """
    assert isinstance(config.mode, SimultaneousMode)
    models = RewardModels(scores, config.mode.reward_models)
    none = dict.fromkeys(solution.lam, 0.0)
    return dict(fit(config, models, Aim(solution.lam, none, solution.targets, sd), prompts, run))
