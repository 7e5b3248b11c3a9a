"""Refinement of lambda during training."""

from dataclasses import dataclass
from typing import ClassVar

from mapft.config.fields import Settings, setting


@dataclass(kw_only=True)
class RefineConfig(Settings):
    """Refinement of lambda on the rollouts of the policy in training."""

    prefix: ClassVar[str] = "refine"
    every: int | None = setting(
        8, "PPO iterations of a window, at whose end lambda can be refined.", at_least=1, null="keep the pilot's lambda"
    )
    start: float = setting(
        0.25, "Share of the training before the first refinement, while the policy moves most.", at_least=0, at_most=1
    )
    tolerance: float = setting(
        0.02, "Lambda is refined only where a target is violated by more than this.", unit="sd", at_least=0
    )
