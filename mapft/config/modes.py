"""What is trained when: a dataclass for each mode, and the table that names them."""

from dataclasses import dataclass, field
from enum import StrEnum

from mapft.config.checks import require


class Residency(StrEnum):
    """Where reward models wait while they do not score; `auto` decides by the free memory (see rewards/loader.py)."""

    auto = "auto"
    resident = "resident"
    offload = "offload"
    one_at_a_time = "one_at_a_time"


@dataclass(kw_only=True)
class ModeConfig:
    """Which values are trained when."""

    name: str


@dataclass(kw_only=True)
class SimultaneousMode(ModeConfig):
    """All at once, on lam.r against the base policy."""

    reward_models: Residency = Residency.auto


@dataclass(kw_only=True)
class SequentialMode(ModeConfig):
    """One value after the other, each against the policy of the stage before; one reward model in memory."""

    order: list[str] | None = None  # of the values with a target; null: as in the palette
    rounds: int = 4  # visits to every value, at most
    tolerance: float = 0.03  # sd; a value kept this closely, or within its samples' error, is not trained on
    smallest_step: float = 0.02  # 1/sd; a smaller change of lam_i is not worth a stage
    stage_episodes: int = 8192  # responses that a stage trains on, at a learning rate in proportion to its step

    def __post_init__(self) -> None:
        require(self.rounds >= 1, "mode.rounds", self.rounds, "at least 1")
        require(self.tolerance >= 0, "mode.tolerance", self.tolerance, "0 or more")
        require(self.smallest_step >= 0, "mode.smallest_step", self.smallest_step, "0 or more")
        require(self.stage_episodes >= 1, "mode.stage_episodes", self.stage_episodes, "at least 1")


@dataclass(kw_only=True)
class ScalarizedMode(ModeConfig):
    """A baseline: PPO on a fixed mixture of the values, whatever level of each comes of it.

    One weight is RLHF on one value; random weights are MORLHF, a linear scalarisation.
    """

    weights: dict[str, float] = field(default_factory=dict)  # by value, per sd, >= 0; values not named have none
    kl: float | None = None  # nats from p0 at which the mixture's optimum lies; null: where the palette's lies

    def __post_init__(self) -> None:
        require(any(self.weights.values()), "mode.weights", self.weights, "a weight above 0 for one value or more")
        for name, weight in self.weights.items():
            require(weight >= 0, f"mode.weights.{name}", weight, "0 or more")
        require(self.kl is None or self.kl > 0, "mode.kl", self.kl, "above 0, or null for the palette's")


@dataclass(kw_only=True)
class SoupMode(ScalarizedMode):
    """A baseline, rewarded soup: the average of the adapters trained on one value each, with these weights.

    Rame et al., 2023, arXiv 2306.04488.
    """


@dataclass(kw_only=True)
class PublishedMode(ModeConfig):
    """A baseline: the recipe that came with the paper, the pooled dual's lam.r as reward at a KL weight of .2."""

    kl_coef: float = 0.2

    def __post_init__(self) -> None:
        require(self.kl_coef > 0, "mode.kl_coef", self.kl_coef, "above 0")


@dataclass(kw_only=True)
class DPOMode(ModeConfig):
    """A baseline: DPO on pairs of pilot samples, the one with the higher lam.r preferred (Rafailov et al., 2023)."""

    beta: float = 0.1
    learning_rate: float | None = None  # null: the trainer's

    def __post_init__(self) -> None:
        require(self.beta > 0, "mode.beta", self.beta, "above 0")
        rate = self.learning_rate
        require(rate is None or rate > 0, "mode.learning_rate", rate, "above 0, or null for the trainer's")


MODES: dict[str, type[ModeConfig]] = {
    "simultaneous": SimultaneousMode,
    "sequential": SequentialMode,
    "scalarized": ScalarizedMode,
    "soup": SoupMode,
    "published": PublishedMode,
    "dpo": DPOMode,
}
