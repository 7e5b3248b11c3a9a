"""Where training is logged."""

from dataclasses import dataclass
from typing import ClassVar

from mapft.config.fields import Settings, setting


@dataclass(kw_only=True)
class TrackingConfig(Settings):
    """Where training logs go besides logs.jsonl in the run folder."""

    prefix: ClassVar[str] = "tracking"
    trackers: dict[str, bool] = setting(
        factory=dict,
        help="Trackers that are on, by name (mapft/tracking/trackers); tracking=[wandb,tensorboard] sets them.",
    )
    project: str = setting("mapft", "Project of W&B.")
    entity: str | None = setting(None, "User or team of W&B; null: the account that is logged in.")
    group: str | None = setting(None, "Group of W&B; null: the sweep, or the run with its visits.")
    completions_every: int | None = setting(
        8, "PPO iterations between two tables of completions.", at_least=1, null="log none"
    )

    def names(self) -> list[str]:
        """Names of the trackers that are on."""
        return [name for name, on in self.trackers.items() if on]
