"""The adapter that is trained, and PPO."""

from dataclasses import dataclass
from enum import StrEnum
from math import inf

from mapft.config.checks import require


@dataclass(kw_only=True)
class AdapterConfig:
    """The LoRA adapter that is trained; the base stays frozen and serves as reference and critic trunk."""

    r: int = 16
    alpha: int = 32
    target_modules: str = "all-linear"  # or a regular expression over module names
    use_rslora: bool = False  # scale alpha / sqrt(r) instead of alpha / r
    use_dora: bool = False  # learn the magnitude of every weight row apart from its direction

    def __post_init__(self) -> None:
        require(self.r >= 1, "adapter.r", self.r, "at least 1")


class Trunk(StrEnum):
    """Whose hidden states the critic reads."""

    reference = "reference"
    policy = "policy"


class Schedule(StrEnum):
    """Of the learning rate, by transformers' names; those that need no numbers of their own."""

    linear = "linear"
    cosine = "cosine"
    cosine_with_restarts = "cosine_with_restarts"
    constant = "constant"
    constant_with_warmup = "constant_with_warmup"
    inverse_sqrt = "inverse_sqrt"
    polynomial = "polynomial"


_COUNTS = (
    "total_episodes",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "num_mini_batches",
    "num_ppo_epochs",
    "num_generations",
    "critic_epochs",
    "critic_minibatch",
    "critic_width",
    "local_rollout_forward_batch_size",
    "logging_steps",
    "save_steps",
)


@dataclass(kw_only=True)
class TrainerConfig:
    """PPO's settings, by the names of `mapft.ppo.PPOConfig`, where each is explained."""

    total_episodes: int = 20_000
    per_device_train_batch_size: int = 64
    gradient_accumulation_steps: int = 1
    num_mini_batches: int = 4
    num_ppo_epochs: int = 4
    num_generations: int = 1
    learning_rate: float = 1e-4
    lr_scheduler_type: Schedule = Schedule.linear
    adam_epsilon: float = 1e-8
    max_grad_norm: float = 1.0
    kl_coef: float = 1.0
    gamma: float = 1.0
    gae_lambda: float = 1.0
    cliprange: float = 0.2
    cliprange_value: float = 1.0
    critic_trunk: Trunk = Trunk.reference
    critic_learning_rate: float = 3e-3
    critic_epochs: int = 4
    critic_minibatch: int = 64
    critic_width: int = 256
    local_rollout_forward_batch_size: int = 64
    gradient_checkpointing: bool = False
    logging_steps: int = 1
    save_steps: int = 50
    save_total_limit: int | None = 2

    def __post_init__(self) -> None:
        for name in _COUNTS:
            require(1 <= getattr(self, name) < 2**31, f"trainer.{name}", getattr(self, name), "at least 1, below 2^31")
        for name in ("learning_rate", "kl_coef", "cliprange", "cliprange_value", "critic_learning_rate"):
            require(0 < getattr(self, name) < inf, f"trainer.{name}", getattr(self, name), "above 0 and finite")
        require(self.max_grad_norm >= 0, "trainer.max_grad_norm", self.max_grad_norm, "0 (off) or more")
        limit = self.save_total_limit
        require(limit is None or limit >= 2, "trainer.save_total_limit", limit, "at least 2, or null for all")
        for name in ("gamma", "gae_lambda"):
            require(0 <= getattr(self, name) <= 1, f"trainer.{name}", getattr(self, name), "between 0 and 1")
