"""All values at once: PPO on lam.r against the base policy."""

from collections.abc import Collection
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

    def check(self, config: Any, targets: Collection[str]) -> None:
        """UserError for a run without stored responses, and where replay is off."""
        super().check(config, targets)
        if self.replay_from and not config.trainer.replay_batch:
            raise UserError("mode.replay_from has no effect with trainer.replay_batch=0; set it to 1 or more.")
        for path in self.replay_from:
            other = RunFolder(Path(path))
            if not other.replay.exists() or not other.config.exists():
                raise UserError(
                    f"mode.replay_from={path} has no {other.replay.name}; name the folder of a run that was trained "
                    "with replay."
                )

    def files(self) -> list[str]:
        """The stored responses of other runs."""
        return [str(RunFolder(Path(path)).replay) for path in self.replay_from]

    def train(self, inputs: Any) -> dict[str, float]:
        """adapter/, logs.jsonl, refinement.json and replay.pt in the run folder."""
        from mapft.ppo.replay import distinct, read_groups
        from mapft.rewards.loader import RewardModels
        from mapft.training.fit import Objective, fit

        solution, matrix, stored = inputs.solution, inputs.matrix, inputs.pilot_groups()
        for path in self.replay_from:
            check_same_responses(RunFolder(Path(path)), inputs.folder, list(inputs.scores))
            stored += read_groups(RunFolder(Path(path)).replay, list(inputs.scores))
        stored = distinct(stored)  # the other run has stored its pilot too, which can be the same
        zero = dict.fromkeys(solution.lam, 0.0)
        objective = Objective(solution.lam, zero, solution.targets, matrix.base, matrix.sd, solution.kl)
        models = RewardModels(inputs.scores, self.reward_models)
        return dict(fit(inputs.config, models, objective, inputs.prompts.training, stored, inputs.folder))


def check_same_responses(other: RunFolder, own: RunFolder, values: list[str]) -> None:
    """UserError unless the other run has stored responses of the same base policy, prompts, sampling and scores.

    The prompts must be the same, because another split can train on prompts that are held out here.
    """
    identities = []
    for folder in (other, own):
        with parsing(folder.config):
            identities.append(read_json(folder.config)["identity"])
    theirs, ours = identities
    differing = [group for group in ("model", "data", "sampling") if theirs[group] != ours[group]]
    differing += [f"rewards.{name}" for name in values if theirs["rewards"].get(name) != ours["rewards"][name]]
    differing += [path for path, state in ours["files"].items() if theirs["files"].get(path) != state]
    if differing:
        raise UserError(
            f"mode.replay_from={other.path} has other settings or files of {', '.join(differing)}, so its responses do "
            "not fit; name a run with the same ones."
        )
