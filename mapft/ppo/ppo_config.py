"""Settings of the PPO trainer: TRL's training arguments with PPO's names and exact defaults."""

import warnings
from dataclasses import dataclass, fields

from trl import GRPOConfig

from mapft.config import PPOSettings, Trunk
from mapft.config.fields import check_ranges, setting
from mapft.utils.errors import UserError

# Settings whose other values move the optimum away from p0 * exp(R / kl_coef).
EXACT_SAMPLING = {
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "min_p": None,
    "repetition_penalty": 1.0,
    "generation_kwargs": None,
}
EXACT_SETTINGS = EXACT_SAMPLING | {"gamma": 1.0, "gae_lambda": 1.0, "disable_dropout": True, "sync_ref_model": False}
# GRPOConfig's settings that are derived here from settings of other names.
DERIVED_FROM = {
    "beta": "kl_coef",
    "epsilon": "cliprange",
    "epsilon_high": "cliprange",
    "num_iterations": "num_ppo_epochs",
    "steps_per_generation": "num_mini_batches",
    "generation_batch_size": "per_device_train_batch_size, gradient_accumulation_steps and num_mini_batches",
}
# GRPOConfig's settings that PPOTrainer does not support, with the only value it accepts.
UNSUPPORTED = {
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
GRPO_DEFAULTS = {field.name: field.default for field in fields(GRPOConfig)}


@dataclass(kw_only=True)
class PPOConfig(PPOSettings, GRPOConfig):
    """Configuration of `PPOTrainer`: `PPOSettings`, and every field of TRL's GRPOConfig and transformers'
    TrainingArguments.

    One iteration generates generation_batch_size = per_device_train_batch_size * gradient_accumulation_steps *
    num_mini_batches * world_size responses, and trains on them for num_ppo_epochs epochs of num_mini_batches optimizer
    steps. With the defaults the optimum is p0(y|x) exp(R(x,y)/kl_coef)/Z(x) exactly; a setting that moves it is
    named in a warning. Raises UserError for a setting out of range, and for one of GRPO's that has no effect here.
    """

    total_episodes: int | None = setting(
        None, "Responses to train on, rounded up to whole iterations.", at_least=1, null="use num_train_epochs"
    )
    num_generations_eval: int = setting(1, "Responses per prompt in evaluation.", at_least=1)
    local_rollout_forward_batch_size: int = setting(
        64, "Responses per forward pass without gradients (log-probabilities, features).", at_least=1
    )
    generation_rows: int | None = setting(
        None,
        "Responses generated at once.",
        at_least=1,
        null="generate all of a rollout, or as many as fit into memory",
    )
    temperature: float = setting(1.0, "Sampling temperature; 1 is exact.", above=0)
    disable_dropout: bool = setting(True, "Switch off dropout in policy and reference.")
    scale_rewards: str = setting("none", "Unused: rewards are never rescaled.")

    def __post_init__(self) -> None:
        check_ranges(self, "")
        self._check()
        derived = {
            "beta": self.kl_coef,  # GRPOTrainer loads a reference model when the policy has no adapter to switch off
            "num_iterations": self.num_ppo_epochs,
            "steps_per_generation": self.gradient_accumulation_steps * self.num_mini_batches,
        }
        for name, source in DERIVED_FROM.items():
            value = getattr(self, name)
            if value not in (GRPO_DEFAULTS[name], derived.get(name)):
                raise UserError(f"{name}={value} is GRPO's name; in PPOConfig set {source}.")
        for name, value in derived.items():
            setattr(self, name, value)
        self._derive_batch()
        self._warn_if_inexact()

    def _check(self) -> None:
        if self.max_steps > 0 and self.total_episodes is not None:
            raise UserError(
                f"max_steps={self.max_steps} and total_episodes={self.total_episodes} both set the length of the "
                "training; leave one out."
            )
        if self.critic_trunk not in list(Trunk):
            raise UserError(f"critic_trunk={self.critic_trunk} is unknown; use one of {', '.join(Trunk)}.")
        if self.save_total_limit == 1:
            raise UserError("save_total_limit=1 leaves no complete checkpoint while one is written; keep 2 or more.")
        for name, off in UNSUPPORTED.items():
            if getattr(self, name) != off:
                raise UserError(f"{name}={getattr(self, name)} has no effect in PPOTrainer; leave it at {off}.")

    def _derive_batch(self) -> None:
        """Let GRPOConfig check itself and derive generation_batch_size; then check the groups of num_generations.

        GRPO needs at least two responses per prompt and PPO does not, so GRPOConfig sees one group per local batch.
        """
        local = self.per_device_train_batch_size * self.steps_per_generation
        self.check_groups(local, "")
        num_generations, self.num_generations = self.num_generations, local
        GRPOConfig.__post_init__(self)
        self.num_generations = num_generations
        if self.generation_batch_size % num_generations:
            raise UserError(
                f"An iteration of {self.generation_batch_size} responses is not a multiple of "
                f"num_generations={num_generations}; change one so that it divides the other."
            )

    @property
    def steps_per_iteration(self) -> int:
        """Optimizer steps per rollout."""
        return self.num_ppo_epochs * self.num_mini_batches

    def _warn_if_inexact(self) -> None:
        inexact = [
            f"{name}={getattr(self, name)} (exact: {value})"
            for name, value in EXACT_SETTINGS.items()
            if getattr(self, name) != value
        ]
        if inexact:
            warnings.warn(
                "These settings move PPO's optimum away from p0*exp(R/kl_coef): " + ", ".join(inexact) + ".",
                stacklevel=3,
            )
