"""The palette, and how lambda is solved and refined for it."""

import dataclasses
from dataclasses import dataclass, field
from enum import StrEnum

from mapft.config.checks import require


@dataclass(kw_only=True)
class PaletteConfig:
    """The level wanted of each value, each value in one way; values of `rewards` that stand nowhere here are free."""

    name: str = "custom"
    quantiles: dict[str, float] = field(default_factory=dict)  # c = max(mean, quantile) of the base scores
    relative_gain: dict[str, float] = field(default_factory=dict)  # log-probability scores: c = mean + log(1 + gain)
    relative_gain_probability: dict[str, float] = field(default_factory=dict)  # c = (1 + gain) mean, at most 1
    sd: dict[str, float] = field(default_factory=dict)  # c = mean + a * sd
    absolute: dict[str, float] = field(default_factory=dict)  # c as it is

    def ways(self) -> dict[str, dict[str, float]]:
        """The non-empty ways of naming a target."""
        fields = [f.name for f in dataclasses.fields(self) if f.name != "name"]
        return {name: getattr(self, name) for name in fields if getattr(self, name)}

    def __post_init__(self) -> None:
        named = [value for way in self.ways().values() for value in way]
        twice = {value for value in named if named.count(value) > 1}
        require(not twice, "palette", ", ".join(sorted(twice)), "one target per value")


class EstimatorName(StrEnum):
    """Estimator of E_x log Z; `auto` is centered with two samples per prompt or more, else pooled."""

    auto = "auto"
    centered = "centered"
    pooled = "pooled"
    per_prompt = "per_prompt"


class Unattainable(StrEnum):
    """What to do with a palette that the base samples cannot realize."""

    stop = "stop"
    nearest = "nearest"


@dataclass(kw_only=True)
class DualConfig:
    """How lambda is solved from the pilot's scores."""

    estimator: EstimatorName = EstimatorName.auto
    if_unattainable: Unattainable = Unattainable.stop
    floor_ess: float | None = None  # effective samples that the nearest palette keeps; null: 30

    def __post_init__(self) -> None:
        require(self.floor_ess is None or self.floor_ess >= 1, "dual.floor_ess", self.floor_ess, "at least 1")


@dataclass(kw_only=True)
class RefineConfig:
    """Refinement of lambda on the rollouts of the policy in training."""

    every: int | None = 8  # PPO iterations between two refinements; null: never
    start: float = 0.25  # share of the training before the first one, in which the policy moves most
    tolerance: float = 0.02  # sd; lambda stays while every target is kept this closely

    def __post_init__(self) -> None:
        require(self.every is None or self.every >= 1, "refine.every", self.every, "at least 1, or null for never")
        require(0 <= self.start <= 1, "refine.start", self.start, "between 0 and 1")
        require(self.tolerance >= 0, "refine.tolerance", self.tolerance, "0 or more")
