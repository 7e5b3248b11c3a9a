"""Refinement of lambda during training."""

from dataclasses import dataclass
from typing import ClassVar

from mapft.config.fields import Settings, setting


@dataclass(kw_only=True)
class RefineConfig(Settings):
    """Refinement of lambda on the rollouts of the policy in training."""

    prefix: ClassVar[str] = "refine"
    every: int | None = setting(
        4, "PPO iterations of a window, at whose end lambda can be refined.", at_least=1, null="keep the pilot's lambda"
    )
    start: float = setting(0.0, "Share of the training before the first refinement.", at_least=0, at_most=1)
    compensate: bool = setting(
        False,
        "Where the policy's own levels miss the targets, raise lambda above its solution, at more than the least KL.",
    )
    tolerance: float = setting(
        0.02, "With compensate, the largest violation of a target that is left as it is.", unit="sd", at_least=0
    )
