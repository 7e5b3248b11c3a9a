"""PPO's settings."""

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from mapft.config.fields import Settings, require, setting
from mapft.utils.errors import UserError


class Trunk(StrEnum):
    """Whose hidden states the critic reads."""

    reference = "reference"
    policy = "policy"


class Schedule(StrEnum):
    """Learning-rate schedule, by transformers' name."""

    linear = "linear"
    cosine = "cosine"
    cosine_with_restarts = "cosine_with_restarts"
    constant = "constant"
    constant_with_warmup = "constant_with_warmup"
    inverse_sqrt = "inverse_sqrt"
    polynomial = "polynomial"


@dataclass(kw_only=True)
class PPOSettings(Settings):
    """PPO's own settings: of a run (trainer.NAME) and of `mapft.ppo.PPOConfig`, which both inherit them from here.

    The optimum is p0(y|x) exp(R(x,y) / kl_coef) / Z(x). Defaults are exact; gamma below 1 moves the optimum.
    """

    num_mini_batches: int = setting(1, "Optimizer steps in one pass over a rollout.", at_least=1)
    num_ppo_epochs: int = setting(4, "Passes over every rollout.", at_least=1)
    num_generations: int = setting(1, "Responses per prompt in one rollout.", at_least=1)
    kl_coef: float = setting(1.0, "Weight of KL(pi||p0), k1 per token inside the reward; fixed.", above=0)
    gamma: float = setting(1.0, "Discount per token; 1 is exact, .99 moves levels by .005 sd.", at_least=0, at_most=1)
    gae_lambda: float = setting(
        1.0,
        "Lambda of GAE; 1 ignores the critic's bias and is exact, below 1 trusts the critic.",
        at_least=0,
        at_most=1,
    )
    cliprange: float = setting(0.2, "The probability ratio is clipped to 1 +- cliprange.", above=0)
    cliprange_value: float = setting(
        1.0, "Largest change of a value in one iteration.", unit="sd of the return", above=0
    )
    whiten_advantages: bool = setting(
        True, "Standardise advantages by one mean and one sd over all tokens of all processes."
    )
    critic_trunk: Trunk = setting(
        Trunk.reference, "Whose hidden states the critic reads; the reference needs no additional forward pass."
    )
    critic_width: int = setting(256, "Hidden units of the critic's heads.", at_least=1)
    critic_learning_rate: float = setting(3e-3, "AdamW's learning rate for the critic, constant.", above=0)
    critic_epochs: int = setting(4, "The critic's passes over every rollout.", at_least=1)
    critic_minibatch: int = setting(64, "Responses per step of the critic, per process.", at_least=1)
    critic_warmup_iterations: int = setting(
        0, "First iterations whose rollouts fit the critic alone; replay still trains the policy.", at_least=0
    )
    replay_batch: int = setting(
        0,
        "Stored responses (of the pilot and of all rollouts) in the regression of each optimizer step; 0 is off.",
        at_least=0,
    )
    replay_coef: float = setting(1.0, "Weight of the regression on stored responses.", at_least=0)
    replay_capacity: int = setting(65_536, "Stored responses per process; the oldest ones are dropped.", at_least=2)
    warm_start_passes: float = setting(
        0.0, "Passes of the regression over the pilot's responses before the first rollout.", at_least=0
    )
    warm_start_learning_rate: float | None = setting(
        None, "Learning rate at which the warm start begins; it falls to 0.", above=0, null="use learning_rate"
    )
    reward_retries: int = setting(
        0,
        "Further calls of a reward function that raised, after 1, 2, 4, ... seconds.",
        at_least=0,
        identity=False,
    )

    def check_groups(self, rows: int, prefix: str) -> None:
        """UserError where the responses of a rollout on one process, so many, are not groups that replay can store."""
        if rows == 1:
            raise UserError(
                f"An iteration of 1 response has no variance to learn from; raise {prefix}per_device_train_batch_size."
            )
        if self.replay_batch and (self.num_generations < 2 or rows % self.num_generations):
            raise UserError(
                f"{prefix}num_generations={self.num_generations} does not work with "
                f"{prefix}replay_batch={self.replay_batch}, which compares responses to a prompt; use 2 or more, a "
                f"divisor of the {rows} responses of a process."
            )
        if self.replay_batch and self.replay_capacity < self.num_generations:
            raise UserError(
                f"{prefix}replay_capacity={self.replay_capacity} is less than "
                f"{prefix}num_generations={self.num_generations}, so nothing would be stored; raise it."
            )


@dataclass(kw_only=True)
class TrainerConfig(PPOSettings):
    """PPO's own settings, and those of transformers' TrainingArguments and TRL's GRPOConfig that a run sets."""

    prefix: ClassVar[str] = "trainer"
    total_episodes: int = setting(20_000, "Responses to train on, rounded up to whole iterations.", at_least=1)
    per_device_train_batch_size: int = setting(64, "Responses per process in an accumulation step.", at_least=1)
    gradient_accumulation_steps: int = setting(1, "Accumulation steps in an optimizer step.", at_least=1)
    micro_batch_size: int | None = setting(
        None,
        "Responses in one forward and backward pass; the optimizer step is the same for all values.",
        at_least=1,
        null="use as many as fit into memory",
        identity=False,
    )
    local_rollout_forward_batch_size: int | None = setting(
        None,
        "Responses per forward pass without gradients (log-probabilities, features).",
        at_least=1,
        null="use as many as fit into memory, at most 64",
        identity=False,
    )
    learning_rate: float = setting(1e-4, "Adam's learning rate for the adapter.", above=0)
    lr_scheduler_type: Schedule = setting(Schedule.linear, "Schedule of the learning rate.")
    warmup_steps: int = setting(0, "Optimizer steps in which the learning rate rises to its full value.", at_least=0)
    weight_decay: float = setting(0.0, "AdamW's weight decay.", at_least=0)
    adam_beta1: float = setting(0.9, "Decay of Adam's first moment.", at_least=0, below=1)
    adam_beta2: float = setting(0.999, "Decay of Adam's second moment.", at_least=0, below=1)
    adam_epsilon: float = setting(1e-8, "Adam's epsilon.", above=0)
    max_grad_norm: float = setting(1.0, "Largest norm of the gradient; 0 is off.", at_least=0)
    gradient_checkpointing: bool | None = setting(
        None,
        "Recompute activations in the backward pass: less memory, more time; null: where memory is short.",
        identity=False,
    )
    cache_implementation: str | None = setting(
        None, "transformers' key-value cache for generation, for example static; null: its default."
    )
    use_transformers_continuous_batching: bool = setting(False, "Generate with transformers' continuous batching.")
    logging_steps: int = setting(1, "Optimizer steps between two lines of logs.jsonl.", at_least=1, identity=False)
    save_steps: int = setting(
        50, "Optimizer steps between two checkpoints, rounded up to whole iterations.", at_least=1, identity=False
    )
    save_total_limit: int | None = setting(
        2, "Checkpoints to keep.", at_least=2, null="keep all of them", identity=False
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        divides = self.micro_batch_size is None or self.rows_per_step % self.micro_batch_size == 0
        need = f"a divisor of the {self.rows_per_step} responses of an optimizer step, or null"
        require(divides, "trainer.micro_batch_size", self.micro_batch_size, need)

    @property
    def rows_per_step(self) -> int:
        """Responses per optimizer step and process."""
        return self.per_device_train_batch_size * self.gradient_accumulation_steps

    @property
    def rows_per_iteration(self) -> int:
        """Responses of a rollout on one process."""
        return self.rows_per_step * self.num_mini_batches
