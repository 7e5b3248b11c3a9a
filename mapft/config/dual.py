"""How lambda is solved from the pilot's scores."""

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from mapft.config.fields import Settings, setting


class EstimatorName(StrEnum):
    """Estimator of E_x log Z; `auto` is centered with two samples per prompt or more, else pooled."""

    auto = "auto"
    centered = "centered"
    pooled = "pooled"
    per_prompt = "per_prompt"


class OnInfeasible(StrEnum):
    """What to do with an infeasible palette: stop before training, or use the nearest feasible one.

    Nearest: all targets are lowered towards the base levels by one factor (`adjust` with interpolate).
    """

    stop = "stop"
    nearest = "nearest"


@dataclass(kw_only=True)
class DualConfig(Settings):
    """How lambda is solved from the pilot's scores."""

    prefix: ClassVar[str] = "dual"
    estimator: EstimatorName = setting(EstimatorName.auto, "Estimator of E_x log Z (mapft/palette/README.md).")
    if_infeasible: OnInfeasible = setting(
        OnInfeasible.stop,
        "Infeasible palette: stop, or lower all targets by one factor to the nearest feasible palette.",
    )
    floor_ess: float | None = setting(
        None,
        "Least effective sample size of the nearest palette.",
        unit="samples",
        at_least=1,
        null="30, or half of the samples",
    )
