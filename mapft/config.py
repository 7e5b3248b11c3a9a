"""Every setting of a run as plain dataclasses; conf/ holds the values, `mapft.cli` is the only room that knows Hydra.

Each field says its meaning, unit and off switch. A bad range is refused here, before any model is loaded.
"""

import dataclasses
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import blake2b
from importlib.util import find_spec
from json import dumps
from math import inf
from typing import Any

from mapft.errors import UserError


class Dtype(StrEnum):
    """Precision of the frozen base; `auto` is bfloat16 on a GPU and float32 on a CPU."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


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


def _require(condition: bool, name: str, value: object, need: str) -> None:
    if not condition:
        raise UserError(f"{name}={value} is out of range; it must be {need}.")


class Trunk(StrEnum):
    """Whose hidden states the critic reads."""

    reference = "reference"
    policy = "policy"


class Quantization(StrEnum):
    """How the frozen base is held in memory, by bitsandbytes: as it is, 4-bit NormalFloat, or 8-bit integers."""

    none = "none"
    nf4 = "nf4"
    int8 = "int8"


@dataclass(kw_only=True)
class ModelConfig:
    """The base policy p0: a causal language model."""

    path: str  # folder, Hub id, or playground:policy
    revision: str | None = None
    adapter: str | None = None  # a trained PEFT adapter: with it on the model is p0; it is trained on as it is
    dtype: Dtype = Dtype.auto
    quantization: Quantization = Quantization.none
    attn_implementation: str | None = None  # null: transformers' choice
    allow_pickle: bool = False  # load weights from a pickle file too, which can run code; false: safetensors only
    trust_remote_code: bool = False


@dataclass(kw_only=True)
class AdapterConfig:
    """The LoRA adapter that is trained; the base stays frozen and serves as reference and critic trunk."""

    r: int = 16
    alpha: int = 32
    target_modules: str = "all-linear"  # or a regular expression over module names
    use_rslora: bool = False  # scale alpha / sqrt(r) instead of alpha / r
    use_dora: bool = False  # learn the magnitude of every weight row apart from its direction

    def __post_init__(self) -> None:
        _require(self.r >= 1, "adapter.r", self.r, "at least 1")


class TooLong(StrEnum):
    """What to do with a prompt over max_prompt_tokens: stop and name it, leave it out, or keep its last tokens."""

    stop = "stop"
    drop = "drop"
    cut = "cut"


class Extract(StrEnum):
    """What of a text is the prompt: all of it, the text between the first "Human:" and the first "Assistant:", or its
    first 20 to 30 characters, where it has more than 30.
    """

    whole = "whole"
    first_question = "first_question"
    beginning = "beginning"


@dataclass(kw_only=True)
class DataConfig:
    """Prompts, split by their text: a prompt is either for pilot and training, or for evaluation."""

    path: str  # .jsonl, .csv or .parquet, a folder or Hub id of a dataset, or playground:prompts
    subset: str | None = None  # of a dataset: the folder in it, as load_dataset's data_dir
    split: str = "train"  # of a dataset
    column: str = "prompt"  # texts, or lists of {"role", "content"} messages
    as_chat: bool = False  # a text becomes the user's message, for a model with a chat template
    extract: Extract = Extract.whole
    evaluation_fraction: float = 0.25  # share of distinct prompts held out
    pilot_prompts: int | None = 512  # of the training prompts, to solve lambda on; null: all
    max_prompt_tokens: int = 512
    too_long: TooLong = TooLong.stop

    def __post_init__(self) -> None:
        fraction = self.evaluation_fraction
        _require(0 < fraction < 1, "data.evaluation_fraction", fraction, "between 0 and 1, both excluded")
        _require(self.max_prompt_tokens >= 1, "data.max_prompt_tokens", self.max_prompt_tokens, "at least 1")
        _require(
            self.pilot_prompts is None or self.pilot_prompts >= 1, "data.pilot_prompts", self.pilot_prompts, ">= 1"
        )


@dataclass(kw_only=True)
class SamplingConfig:
    """How every response is drawn: pilot, PPO, decoding and evaluation share it, or the promise would not hold."""

    max_new_tokens: int = 50
    temperature: float = 1.0
    top_k: int = 0  # 0: off
    top_p: float = 1.0  # 1: off
    samples_per_prompt: int = 8  # K of the pilot
    batch_size: int = 256  # responses drawn at once; changes the random draws, not their law

    def __post_init__(self) -> None:
        _require(self.max_new_tokens >= 1, "sampling.max_new_tokens", self.max_new_tokens, "at least 1")
        _require(0 < self.temperature < inf, "sampling.temperature", self.temperature, "above 0 and finite")
        _require(self.samples_per_prompt >= 1, "sampling.samples_per_prompt", self.samples_per_prompt, "at least 1")
        _require(0 < self.top_p <= 1, "sampling.top_p", self.top_p, "above 0 and at most 1")
        _require(self.top_k >= 0, "sampling.top_k", self.top_k, "0 (off) or more")
        _require(self.batch_size >= 1, "sampling.batch_size", self.batch_size, "at least 1")


class Choose(StrEnum):
    """How decoding picks one of n candidates: drawn by softmax(lam.r), the best, or by rejection (exact p_lam)."""

    draw = "draw"
    best = "best"
    rejection = "rejection"


@dataclass(kw_only=True)
class DecodingConfig:
    """Decoding-time alignment (see mapft/sampling/decoding.py)."""

    candidates: int = 16  # n per response; rejection draws n at a time
    choose: Choose = Choose.draw
    most_candidates: int = 4096  # per response, after which rejection gives up on it
    prompts: str | None = None  # a file or dataset of prompts, read as data.* says; null: the held-out prompts
    samples_per_prompt: int = 1

    def __post_init__(self) -> None:
        _require(self.candidates >= 1, "decoding.candidates", self.candidates, "at least 1")
        most = self.most_candidates
        _require(most >= self.candidates, "decoding.most_candidates", most, "at least decoding.candidates")
        _require(self.samples_per_prompt >= 1, "decoding.samples_per_prompt", self.samples_per_prompt, "at least 1")


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
        _require(not twice, "palette", ", ".join(sorted(twice)), "one target per value")


@dataclass(kw_only=True)
class DualConfig:
    """How lambda is solved from the pilot's scores."""

    estimator: EstimatorName = EstimatorName.auto
    if_unattainable: Unattainable = Unattainable.stop
    floor_ess: float | None = None  # effective samples that the nearest palette keeps; null: 30

    def __post_init__(self) -> None:
        _require(self.floor_ess is None or self.floor_ess >= 1, "dual.floor_ess", self.floor_ess, "at least 1")


class Method(StrEnum):
    """A way to a policy that `mapft compare` knows."""

    simultaneous = "simultaneous"
    sequential = "sequential"
    decoding = "decoding"
    single = "single"
    morlhf = "morlhf"
    soup = "soup"
    best_of_n = "best_of_n"
    dpo = "dpo"
    published = "published"


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
        _require(self.rounds >= 1, "mode.rounds", self.rounds, "at least 1")
        _require(self.tolerance >= 0, "mode.tolerance", self.tolerance, "0 or more")
        _require(self.smallest_step >= 0, "mode.smallest_step", self.smallest_step, "0 or more")
        _require(self.stage_episodes >= 1, "mode.stage_episodes", self.stage_episodes, "at least 1")


@dataclass(kw_only=True)
class ScalarizedMode(ModeConfig):
    """A baseline: PPO on a fixed mixture of the values, whatever level of each comes of it.

    One weight is RLHF on one value; random weights are MORLHF, a linear scalarisation.
    """

    weights: dict[str, float] = field(default_factory=dict)  # by value, per sd, >= 0; values not named have none
    kl: float | None = None  # nats from p0 at which the mixture's optimum lies; null: where the palette's lies

    def __post_init__(self) -> None:
        _require(any(self.weights.values()), "mode.weights", self.weights, "a weight above 0 for one value or more")
        for name, weight in self.weights.items():
            _require(weight >= 0, f"mode.weights.{name}", weight, "0 or more")
        _require(self.kl is None or self.kl > 0, "mode.kl", self.kl, "above 0, or null for the palette's")


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
        _require(self.kl_coef > 0, "mode.kl_coef", self.kl_coef, "above 0")


@dataclass(kw_only=True)
class DPOMode(ModeConfig):
    """A baseline: DPO on pairs of pilot samples, the one with the higher lam.r preferred (Rafailov et al., 2023)."""

    beta: float = 0.1
    learning_rate: float | None = None  # null: the trainer's

    def __post_init__(self) -> None:
        _require(self.beta > 0, "mode.beta", self.beta, "above 0")
        rate = self.learning_rate
        _require(rate is None or rate > 0, "mode.learning_rate", rate, "above 0, or null for the trainer's")


MODES: dict[str, type[ModeConfig]] = {
    "simultaneous": SimultaneousMode,
    "sequential": SequentialMode,
    "scalarized": ScalarizedMode,
    "soup": SoupMode,
    "published": PublishedMode,
    "dpo": DPOMode,
}


@dataclass(kw_only=True)
class RefineConfig:
    """Refinement of lambda on the rollouts of the policy in training."""

    every: int | None = 8  # PPO iterations between two refinements; null: never
    start: float = 0.25  # share of the training before the first one, in which the policy moves most
    tolerance: float = 0.02  # sd; lambda stays while every target is kept this closely

    def __post_init__(self) -> None:
        _require(self.every is None or self.every >= 1, "refine.every", self.every, "at least 1, or null for never")
        _require(0 <= self.start <= 1, "refine.start", self.start, "between 0 and 1")
        _require(self.tolerance >= 0, "refine.tolerance", self.tolerance, "0 or more")


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
            _require(getattr(self, name) >= 1, f"trainer.{name}", getattr(self, name), "at least 1")
        for name in ("learning_rate", "kl_coef", "cliprange", "cliprange_value", "critic_learning_rate"):
            _require(0 < getattr(self, name) < inf, f"trainer.{name}", getattr(self, name), "above 0 and finite")
        _require(self.max_grad_norm >= 0, "trainer.max_grad_norm", self.max_grad_norm, "0 (off) or more")
        limit = self.save_total_limit
        _require(limit is None or limit >= 2, "trainer.save_total_limit", limit, "at least 2, or null for all")
        for name in ("gamma", "gae_lambda"):
            _require(0 <= getattr(self, name) <= 1, f"trainer.{name}", getattr(self, name), "between 0 and 1")


@dataclass(kw_only=True)
class PolicyConfig:
    """A policy to evaluate beside the base and the one that was trained: an adapter on the base, or decoding."""

    adapter: str | None = None  # folder or Hub id
    candidates: int | None = None  # decoding with n candidates and the pilot's lambda
    choose: Choose = Choose.draw
    samples_per_prompt: int | None = None  # null: evaluation.samples_per_prompt

    def __post_init__(self) -> None:
        if (self.adapter is None) == (self.candidates is None):
            raise UserError("A policy of evaluation.policies has either an adapter or candidates; give one of them.")
        _require(self.candidates is None or self.candidates >= 1, "candidates", self.candidates, "at least 1")
        per_prompt = self.samples_per_prompt
        _require(per_prompt is None or per_prompt >= 1, "samples_per_prompt", per_prompt, "at least 1")


def _policy(name: str, settings: Any) -> PolicyConfig:
    """Plain settings, as Hydra gives them below a name of the user's, as a PolicyConfig."""
    if isinstance(settings, PolicyConfig):
        return settings
    known = [f.name for f in dataclasses.fields(PolicyConfig)]
    if not isinstance(settings, dict) or not set(settings) <= set(known):
        raise UserError(f"evaluation.policies.{name}={settings} does not fit; its settings are {', '.join(known)}.")
    for key in ("candidates", "samples_per_prompt"):
        if not isinstance(settings.get(key), int | None) or isinstance(settings.get(key), bool):
            raise UserError(f"evaluation.policies.{name}.{key}={settings[key]} is no whole number.")
    if settings.get("choose", "draw") not in list(Choose):
        raise UserError(f"evaluation.policies.{name}.choose={settings['choose']} is none of {', '.join(Choose)}.")
    return PolicyConfig(**settings | {"choose": Choose(settings.get("choose", "draw"))})


@dataclass(kw_only=True)
class EvaluationConfig:
    """The check of the promise on held-out prompts."""

    prompts: int | None = 512  # of the held-out prompts; null: all
    samples_per_prompt: int = 8
    policies: dict[str, Any] = field(default_factory=dict)  # PolicyConfig by name, besides base and tuned
    confidence: float = 0.95
    bootstrap: int = 2000  # resamples of the prompts
    tolerance_sd: float = 0.10  # a target counts as met down to this many base sd below it

    def __post_init__(self) -> None:
        _require(self.prompts is None or self.prompts >= 1, "evaluation.prompts", self.prompts, ">= 1")
        _require(0 < self.confidence < 1, "evaluation.confidence", self.confidence, "between 0 and 1")
        _require(self.samples_per_prompt >= 1, "evaluation.samples_per_prompt", self.samples_per_prompt, "at least 1")
        _require(self.tolerance_sd >= 0, "evaluation.tolerance_sd", self.tolerance_sd, "0 or more")
        _require(self.bootstrap >= 100, "evaluation.bootstrap", self.bootstrap, "at least 100")
        self.policies = {name: _policy(name, settings) for name, settings in self.policies.items()}
        taken = sorted({"base", "tuned"} & set(self.policies))
        _require(
            not taken, "evaluation.policies", ", ".join(taken), "named otherwise than the two that are always there"
        )


@dataclass(kw_only=True)
class ComparisonConfig:
    """`mapft compare`: which methods, beside this run's, are trained and evaluated on the same prompts."""

    methods: list[Method] = field(default_factory=lambda: list(Method))
    random_weights: int = 5  # of morlhf
    soup_steps: int = 3  # of soup: weights are multiples of 1/steps that sum to 1
    candidates: int = 16  # of decoding and best_of_n

    def __post_init__(self) -> None:
        for name in ("random_weights", "soup_steps", "candidates"):
            _require(getattr(self, name) >= 1, f"comparison.{name}", getattr(self, name), "at least 1")


@dataclass(kw_only=True)
class TrackingConfig:
    """Where training logs go besides logs.jsonl in the run folder."""

    wandb: bool = False
    tensorboard: bool = False
    project: str = "mapft"  # of W&B
    entity: str | None = None  # user or team of W&B; null: who is logged in
    group: str | None = None  # of W&B; null: the sweep, or the run with its stages
    completions_every: int | None = 8  # PPO iterations between two tables of completions; null: none

    def __post_init__(self) -> None:
        every = self.completions_every
        _require(every is None or every >= 1, "tracking.completions_every", every, "at least 1, or null for none")
        if self.tensorboard and find_spec("tensorboard") is None:
            raise UserError("tracking=tensorboard needs a package that is not here; pip install 'mapft[tensorboard]'.")


@dataclass(kw_only=True)
class LaunchConfig:
    """The machines that `mapft plan` plans for; `mapft launch NAME` starts a run on them."""

    name: str  # of a file in launch/
    processes: int = 1  # of all machines; one for each GPU
    memory_gb: float | None = None  # of a GPU (of the host for `cpu`), 10^9 bytes; null: this machine's

    def __post_init__(self) -> None:
        _require(self.processes >= 1, "launch.processes", self.processes, "at least 1")
        _require(self.memory_gb is None or self.memory_gb > 0, "launch.memory_gb", self.memory_gb, "above 0")


@dataclass(kw_only=True)
class Config:
    """One run, resolved. `rewards` maps each value's name to the settings of its score (see `mapft.rewards`)."""

    model: ModelConfig
    adapter: AdapterConfig
    data: DataConfig
    rewards: dict[str, Any] = field(default_factory=dict)
    palette: PaletteConfig
    sampling: SamplingConfig
    dual: DualConfig
    mode: ModeConfig
    trainer: TrainerConfig
    refine: RefineConfig
    decoding: DecodingConfig
    evaluation: EvaluationConfig
    comparison: ComparisonConfig
    tracking: TrackingConfig
    launch: LaunchConfig
    seed: int = 0
    name: str = "run"  # begins the run folder's name
    output: str = "runs"  # where run folders and the store of samples and scores lie
    run_dir: str | None = None  # null: {output}/{name}-{palette}-{fingerprint}, so the same settings meet again

    def __post_init__(self) -> None:
        wanted = {value for way in self.palette.ways().values() for value in way}
        if not self.rewards:
            raise UserError("rewards is empty; name at least one value, for example rewards=[playground/humor].")
        if not wanted <= set(self.rewards):
            raise UserError(
                f"The palette {self.palette.name!r} asks for {', '.join(sorted(wanted - set(self.rewards)))}, "
                f"which no reward scores (rewards: {', '.join(self.rewards)}; palette: {', '.join(sorted(wanted))}); "
                "add the reward or choose another palette."
            )
        if not wanted:
            raise UserError("The palette names no value; give a target, for example +palette.quantiles.humor=0.7.")
        if isinstance(self.mode, ScalarizedMode) and not set(self.mode.weights) <= set(self.rewards):
            raise UserError(
                f"mode.weights names {', '.join(sorted(set(self.mode.weights) - set(self.rewards)))}, which no reward "
                f"scores (rewards: {', '.join(self.rewards)})."
            )
        order = self.mode.order if isinstance(self.mode, SequentialMode) else None
        if order is not None and (set(order) != wanted or len(order) != len(wanted)):
            raise UserError(
                f"mode.order={','.join(order)} is no order of the palette's values; it must name each of "
                f"{', '.join(sorted(wanted))} once."
            )


def fingerprint(*parts: Any) -> str:
    """12 hex digits of BLAKE2b over the settings as sorted JSON."""
    plain = [dataclasses.asdict(part) if dataclasses.is_dataclass(part) else part for part in parts]  # type: ignore[arg-type]
    return blake2b(dumps(plain, sort_keys=True, default=str).encode(), digest_size=6).hexdigest()
