"""All values at once: PPO on lam.r against the base policy."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from mapft.config import ModeConfig, Residency
from mapft.config.fields import setting
from mapft.config.run_folder import RunFolder
from mapft.utils.errors import UserError
from mapft.utils.files import parsing, read_json


@dataclass(kw_only=True)
class Simultaneous(ModeConfig):
    """All values at once: PPO on lam.r against the base policy, lam refined on its own rollouts.

    Every value is scored and logged, also those whose multiplier is 0.
    """

    aims_at_palette: ClassVar[bool] = True
    reward_models: Residency = setting(
        Residency.auto, "Where reward models wait while they do not score.", identity=False
    )
    replay_from: list[str] = setting(
        factory=list,
        help="Run folders whose scored responses replay begins with, under the multipliers of this run.",
    )

    @property
    def residency(self) -> Residency:
        """The setting."""
        return self.reward_models

    def files(self) -> list[str]:
        """The stored responses of other runs."""
        return [str(RunFolder(Path(path)).replay) for path in self.replay_from]

    def train(self, inputs: Any) -> dict[str, float]:
        """adapter/, logs.jsonl, refinement.json and replay.pt in the run folder."""
        from mapft.ppo.replay import read_groups
        from mapft.rewards.loader import RewardModels
        from mapft.training.fit import Objective, fit

        solution, stored = inputs.solution, inputs.pilot_groups()
        for path in self.replay_from:
            check_same_responses(RunFolder(Path(path)), inputs.folder, list(inputs.scores))
            stored += read_groups(RunFolder(Path(path)).replay, list(inputs.scores))
        objective = Objective(solution.lam, dict.fromkeys(solution.lam, 0.0), solution.targets, inputs.matrix.sd)
        models = RewardModels(inputs.scores, self.reward_models)
        return dict(fit(inputs.config, models, objective, inputs.prompts.training, stored, inputs.folder))


def check_same_responses(other: RunFolder, own: RunFolder, values: list[str]) -> None:
    """UserError unless the other run has stored responses of the same base policy, sampling and scores."""
    option = f"mode.replay_from={other.path}"
    if not other.replay.exists():
        raise UserError(f"{option} has no {other.replay.name}; name the folder of a run that was trained with replay.")
    identities = []
    for folder in (other, own):
        with parsing(folder.config):
            identities.append(read_json(folder.config)["identity"])
    theirs, ours = identities
    differing = [group for group in ("model", "sampling") if theirs[group] != ours[group]]
    differing += [f"rewards.{name}" for name in values if theirs["rewards"].get(name) != ours["rewards"][name]]
    if differing:
        raise UserError(
            f"{option} has other settings of {', '.join(differing)}, so its responses do not fit; name a run with the "
            "same ones."
        )
