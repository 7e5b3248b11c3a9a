"""The training mode: what all modes share. Each mode is one file in mapft/training/modes."""

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar

from mapft.config.fields import Settings, setting


class Residency(StrEnum):
    """Where reward models wait while they do not score; `auto` decides by the free memory (mapft/rewards/loader.py)."""

    auto = "auto"
    resident = "resident"
    offload = "offload"
    one_at_a_time = "one_at_a_time"


@dataclass(kw_only=True)
class ModeConfig(Settings):
    """Settings and facts of a training mode; subclasses implement `train` and are listed in TRAINERS.

    aims_at_palette: whether the optimum is p_lam of the palette; a baseline's is another policy.
    """

    prefix: ClassVar[str] = "mode"
    aims_at_palette: ClassVar[bool] = False
    name: str = setting(help="Name in TRAINERS; selected with mode=NAME.")

    def check(self, config: Any, targets: Collection[str]) -> None:
        """UserError where the settings do not fit the other ones, or the values with a target. config: a Config."""
        config.trainer.check_groups(config.trainer.rows_per_iteration, "trainer.")

    def train(self, inputs: Any) -> dict[str, float] | None:
        """Train and write adapter/ (see mapft.training.TrainingInputs).

        Returns the multipliers that the policy was trained towards, None where it was not trained towards any.
        """
        raise NotImplementedError

    def files(self) -> list[str]:
        """Files that decide the result."""
        return []

    def scored_responses(self, total_episodes: int, pilot: int, folder: Any) -> int:
        """Responses scored to make the policy, beyond the pilot's. folder: of the finished run."""
        return total_episodes

    @property
    def residency(self) -> Residency | None:
        """Where this mode keeps reward models while the policy trains; None: it needs none then."""
        return Residency.auto
