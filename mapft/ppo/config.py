"""Settings of the PPO trainer: TRL's own training arguments, with PPO's names and the exact preset as defaults."""

import warnings
from dataclasses import dataclass, field, fields

from trl import GRPOConfig

from mapft.errors import UserError

# Switches that move the optimum away from p0 * exp(R / kl_coef), with the setting that does not.
EXACT_SAMPLING = {
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "min_p": None,
    "repetition_penalty": 1.0,
    "generation_kwargs": None,
}
EXACT = EXACT_SAMPLING | {"gamma": 1.0, "disable_dropout": True, "sync_ref_model": False}
# GRPO's names for what has another name here.
RENAMED = {
    "beta": "kl_coef",
    "epsilon": "cliprange",
    "epsilon_high": "cliprange",
    "num_iterations": "num_ppo_epochs",
    "steps_per_generation": "num_mini_batches",
    "generation_batch_size": "per_device_train_batch_size, gradient_accumulation_steps and num_mini_batches",
}
# GRPO's own switches, which this trainer does not have.
NOT_HERE = {
    "use_vllm": False,
    "mask_truncated_completions": False,
    "entropy_coef": 0.0,
    "use_adaptive_entropy": False,
    "top_entropy_quantile": 1.0,
    "off_policy_mask_threshold": None,
    "importance_sampling_level": "token",
    "delta": None,
    "scale_rewards": "none",
    "shuffle_dataset": True,
    "multi_objective_aggregation": "sum_then_normalize",
    "torch_compile": False,
}


POSITIVE = (
    "kl_coef",
    "num_ppo_epochs",
    "num_mini_batches",
    "num_generations",
    "total_episodes",
    "cliprange",
    "cliprange_value",
    "critic_epochs",
    "critic_minibatch",
    "critic_width",
    "critic_learning_rate",
    "local_rollout_forward_batch_size",
)
GRPO_DEFAULTS = {f.name: f.default for f in fields(GRPOConfig)}


@dataclass
class PPOConfig(GRPOConfig):
    """Configuration of `PPOTrainer`: every field of TRL's GRPOConfig and of transformers' TrainingArguments, and these.

    One iteration collects generation_batch_size = per_device_train_batch_size * gradient_accumulation_steps *
    num_mini_batches * world_size responses, and passes over them num_ppo_epochs times in num_mini_batches optimizer
    steps. With the defaults the optimum is p0(y|x) exp(R(x,y)/kl_coef)/Z(x) exactly; a setting that moves it is
    named in a warning.
    """

    kl_coef: float = field(
        default=1.0, metadata={"help": "Weight of KL(pi||p0), k1 per token inside the reward; fixed, > 0."}
    )
    gamma: float = field(default=1.0, metadata={"help": "Discount per token; 1 is exact, .99 moves levels by .005 sd."})
    gae_lambda: float = field(
        default=1.0, metadata={"help": "GAE's lambda; 1 ignores the critic's bias (exact), below 1 trusts the critic."}
    )
    cliprange: float = field(default=0.2, metadata={"help": "Clip of the probability ratio, rho in 1 +- cliprange."})
    cliprange_value: float = field(
        default=1.0, metadata={"help": "Clip of a value's move in one iteration, in sd of the return; inf is off."}
    )
    whiten_advantages: bool = field(
        default=True, metadata={"help": "Standardise advantages by one mean and sd over all tokens of all processes."}
    )
    num_ppo_epochs: int = field(default=4, metadata={"help": "Passes over every rollout."})
    num_mini_batches: int = field(default=1, metadata={"help": "Optimizer steps per pass."})
    total_episodes: int | None = field(
        default=None,
        metadata={"help": "Responses to train on, rounded up to whole iterations; None: num_train_epochs passes."},
    )
    local_rollout_forward_batch_size: int = field(
        default=64, metadata={"help": "Responses per forward pass without gradients (log-probs, features)."}
    )
    critic_trunk: str = field(
        default="reference", metadata={"help": "Whose hidden states the critic reads: reference (free) or policy."}
    )
    critic_width: int = field(default=256, metadata={"help": "Hidden units of the critic's heads."})
    critic_learning_rate: float = field(default=3e-3, metadata={"help": "AdamW's step for the critic, constant."})
    critic_epochs: int = field(default=4, metadata={"help": "The critic's passes over every rollout; they are cheap."})
    critic_minibatch: int = field(default=64, metadata={"help": "Responses per step of the critic and process."})
    critic_warmup_iterations: int = field(
        default=0, metadata={"help": "First iterations that fit the critic alone; the policy stays where it is."}
    )
    reward_retries: int = field(
        default=0,
        metadata={"help": "More calls of a reward function that raised, after 1, 2, 4, ... s; for remote ones."},
    )
    num_generations: int = field(default=1, metadata={"help": "Responses per prompt in one iteration."})
    num_generations_eval: int = field(default=1, metadata={"help": "Responses per prompt in evaluation."})
    temperature: float = field(default=1.0, metadata={"help": "Sampling temperature; 1 is exact."})
    disable_dropout: bool = field(default=True, metadata={"help": "No dropout in policy and reference."})
    scale_rewards: str = field(default="none", metadata={"help": "Unused: rewards are never rescaled."})

    def __post_init__(self) -> None:
        for name in POSITIVE:
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UserError(f"{name}={value} is not positive; PPO needs {name} > 0, for example {name}=1.")
        for name in ("gamma", "gae_lambda"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name}={getattr(self, name)} is out of range; it must be between 0 and 1.")
        if self.max_steps > 0 and self.total_episodes is not None:
            raise UserError(
                f"max_steps={self.max_steps} and total_episodes={self.total_episodes} both say how long to train; "
                "leave one out."
            )
        for name in ("critic_warmup_iterations", "reward_retries"):
            if getattr(self, name) < 0:
                raise UserError(f"{name}={getattr(self, name)} is negative; {name}=0 does without.")
        if self.critic_trunk not in ("reference", "policy"):
            raise UserError(f"critic_trunk={self.critic_trunk} is unknown; use reference or policy.")
        if self.save_total_limit == 1:
            raise UserError("save_total_limit=1 leaves no whole checkpoint while one is written; keep 2 or more.")
        for name, off in NOT_HERE.items():
            if getattr(self, name) != off:
                raise UserError(f"{name}={getattr(self, name)} does nothing in PPOTrainer; leave it at {off}.")
        derived = {
            "beta": self.kl_coef,
            "num_iterations": self.num_ppo_epochs,
            "steps_per_generation": self.gradient_accumulation_steps * self.num_mini_batches,
        }
        for name, here in RENAMED.items():
            value = getattr(self, name)
            if value not in (GRPO_DEFAULTS[name], derived.get(name)):
                raise UserError(f"{name}={value} is GRPO's name; in PPOConfig give {here}.")
        self.beta = self.kl_coef  # GRPOTrainer builds a reference model when the policy has no adapter to switch off
        self.steps_per_generation = derived["steps_per_generation"]
        self.num_iterations = self.num_ppo_epochs
        if self.per_device_train_batch_size * self.steps_per_generation == 1:
            raise UserError(
                "An iteration of one response has no spread to learn from; raise per_device_train_batch_size."
            )
        # GRPO refuses one response per prompt, which PPO allows: let it check one group of the whole local batch.
        wanted, self.num_generations = (
            self.num_generations,
            self.per_device_train_batch_size * self.steps_per_generation,
        )
        super().__post_init__()
        self.num_generations = wanted
        if self.generation_batch_size % self.num_generations:
            raise UserError(
                f"An iteration of {self.generation_batch_size} responses does not hold whole groups of "
                f"num_generations={self.num_generations}; change one so that it divides the other."
            )
        self._warn_if_inexact()

    @property
    def steps_per_iteration(self) -> int:
        """Optimizer steps per rollout."""
        return self.num_ppo_epochs * self.num_mini_batches

    def _warn_if_inexact(self) -> None:
        moved = [
            f"{name}={getattr(self, name)} (exact: {to})" for name, to in EXACT.items() if getattr(self, name) != to
        ]
        if moved:
            warnings.warn(
                "These settings move PPO's optimum away from p0*exp(R/kl_coef): " + ", ".join(moved) + ".",
                stacklevel=3,
            )
