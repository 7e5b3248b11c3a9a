"""Peak memory of each phase of a PPO iteration, measured on fake tensors (README.md of this folder)."""

import copy
import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from mapft.config import Config, Dtype
from mapft.planning.memory_tracker import MemoryTracker, fused_attention
from mapft.playground.paths import existing_or_hub
from mapft.ppo.critic import Critic
from mapft.ppo.trl_seam import narrow_head_tiles
from mapft.utils.errors import UserError, reason, working_on

TRACED_LAYERS = (2, 4)  # a deeper model is extrapolated linearly from models of so many layers


class CannotEstimate(UserError):
    """The model's code does not run on tensors without data."""


@contextmanager
def without_data(config: Config) -> Iterator[None]:
    """Inside, the model runs on tensors without data; raises CannotEstimate where its code fails."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")  # prints a traceback
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # the model's code decides which
        raise CannotEstimate(
            f"The memory of model.path={config.model.path} cannot be estimated, because its code does not run on "
            f"tensors without data ({reason(error)})."
        ) from error
    finally:
        logger.setLevel(level)


class Phases:
    """Bytes that a pass of each phase needs beyond the persistent parts, by its number of responses.

    prompt_tokens: of the longest prompt; every response has sampling.max_new_tokens. policy: of `meta_policy`.
    Raises UserError for a policy whose configuration does not load, and CannotEstimate.
    """

    def __init__(self, config: Config, prompt_tokens: int) -> None:
        self.config, self.prompt, self.tokens = config, prompt_tokens, config.sampling.max_new_tokens
        self._mode, self._peaks = FakeTensorMode(), dict[Any, float]()
        with without_data(config):
            self.policy = meta_policy(config)
            embeddings = self.policy.get_base_model().get_output_embeddings()
            self.features, self.vocabulary = embeddings.in_features, embeddings.weight.size(0)
            self._depth, first = len(decoder_layers(self.policy)), first_trained_layer(self.policy)
            numbers = [None] if self._depth <= max(TRACED_LAYERS) else TRACED_LAYERS
            self._traced = [self._fake(meta_policy(config, layers, first)) for layers in numbers]
        self._backward_depth = self._depth - first  # without checkpointing, the layers below keep no activations

    def under(self, config: Config) -> "Phases":
        """The phases under other settings of the batches, quantization or processes; what is measured is shared."""
        assert _of_passes(config) == _of_passes(self.config)
        phases = copy.copy(self)
        phases.config = config
        return phases

    def generation(self, rows: int, batch: int) -> dict[str, float]:
        """Prefill and decoding of `rows` responses of a batch, for all of which random numbers are sampled."""
        sampling = (3.0 * rows + 2.0 * batch) * self.vocabulary * 4  # logits, log-softmax, probabilities; noise twice

        def prefill(policy: Any, tracker: MemoryTracker) -> None:
            policy(input_ids=_ids(rows, self.prompt), use_cache=True, logits_to_keep=1)

        def decode(policy: Any, tracker: MemoryTracker) -> None:
            before = policy(input_ids=_ids(rows, self.prompt + self.tokens - 1), use_cache=True, logits_to_keep=1)
            names = ("cache", "past_key_values")  # the second before transformers 5.24; none in recurrent models
            cache = {name: before[name] for name in [name for name in names if name in before][:1]}
            del before
            tracker.peak = tracker.now  # of this prefill, only the cache exists in real decoding
            policy(input_ids=_ids(rows, 1), **cache, use_cache=True, logits_to_keep=1)

        with torch.no_grad():
            passes = {"prefill": prefill, "decoding": decode}
            return {name: self._peak((name, rows), run) + sampling for name, run in passes.items()}

    def log_probs(self, rows: int) -> float:
        """A pass without gradients; and the critic's features of a whole rollout."""
        with torch.no_grad(), self._autocast():
            peak = self._peak(("log_probs", rows), lambda policy, _: self._response_log_probs(policy, rows))
        return peak + self._feature_bytes

    def critic(self) -> float:
        """A step of the critic."""
        rows = min(self.config.trainer.critic_minibatch, self.config.trainer.rows_per_iteration)
        with self._mode:
            critic = new_critic(self.config, self.features)

        def step(policy: Any, tracker: MemoryTracker) -> None:
            states = torch.empty(rows, self.tokens, self.features)
            critic(states, torch.ones(rows, self.tokens)).sum().backward()

        return self._peak(("critic", rows), step) + self._feature_bytes

    def update(self, rows: int, *, checkpointing: bool) -> float:
        """Forward and backward pass of `rows` responses of a rollout and their share of stored ones."""
        batches = [size for size in (rows, replay_rows(self.config, rows)) if size]

        def step(policy: Any, tracker: MemoryTracker) -> None:
            sum(self._response_log_probs(policy, size).sum() for size in batches).backward()

        depth = self._depth if checkpointing else self._backward_depth
        for policy in self._traced:
            policy.train()
            if checkpointing:
                causal = policy.get_base_model()
                causal.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
                causal.enable_input_require_grads()
        try:
            with self._autocast():
                return self._peak(("update", *batches, checkpointing), step, depth)
        finally:
            for policy in self._traced:
                policy.eval()
                if checkpointing:
                    policy.get_base_model().gradient_checkpointing_disable()
                    policy.get_base_model().disable_input_require_grads()

    @property
    def _feature_bytes(self) -> float:
        return self.config.trainer.rows_per_iteration * self.tokens * self.features * self.policy.dtype.itemsize

    def _peak(self, key: Any, run: Callable[[Any, MemoryTracker], Any], depth: int | None = None) -> float:
        """Of run(policy, tracker) on fake tensors, extrapolated to so many layers, or all. key: names the pass."""
        if key not in self._peaks:
            peak, *more = [self._traced_peak(policy, run) for policy in self._traced]
            layers = self._depth if depth is None else depth
            few, many = (min(traced, layers) for traced in TRACED_LAYERS)
            slopes = [(other - peak) / max(many - few, 1) for other in more]
            self._peaks[key] = peak + sum(slope * (layers - few) for slope in slopes)
        return self._peaks[key]

    def _traced_peak(self, policy: Any, run: Callable[[Any, MemoryTracker], Any]) -> float:
        with self._mode, MemoryTracker() as tracker:
            run(policy, tracker)
            return float(tracker.peak)

    def _response_log_probs(self, policy: Any, rows: int) -> Any:
        ids, labels = _ids(rows, self.prompt + self.tokens), torch.zeros(1, rows * self.tokens, dtype=torch.long)
        with _fused_head(policy.get_base_model(), self.tokens):
            return policy(input_ids=ids, shift_labels=labels, fused_lm_head=True).log_probs

    def _autocast(self) -> Any:
        half = self.config.launch.name != "cpu" and self.policy.dtype == torch.bfloat16  # as the trainer
        return torch.autocast("cpu", torch.bfloat16, enabled=half)

    def _fake(self, policy: Any) -> Any:
        """The policy with fake parameters; those of the adapter have gradients, which are counted as persistent."""
        with self._mode:
            _to_fake(policy)
            for parameter in filter(lambda p: p.requires_grad, policy.parameters()):
                parameter.grad = torch.empty_like(parameter)
        return policy.eval()


def replay_rows(config: Config, rows: int) -> int:
    """Most stored responses in a micro-batch beside `rows` of a rollout: whole groups of the pilot or of rollouts."""
    trainer = config.trainer
    micro_batches = trainer.rows_per_step // rows

    def of_groups(size: int) -> int:
        return size * math.ceil(math.ceil(trainer.replay_batch / size) / micro_batches)

    return max(of_groups(config.sampling.samples_per_prompt), of_groups(trainer.num_generations))


@contextmanager
def _fused_head(causal: Any, tokens: int) -> Iterator[None]:
    """Inside, TRL's fused LM head reads the hidden states of the responses only, as in the trainer."""

    def response_states(module: Any, args: Any, output: Any) -> Any:
        states = output.last_hidden_state[:, -tokens - 1 : -1]
        output.last_hidden_state = states.reshape(1, -1, states.size(-1))
        return output

    handle = causal.base_model.register_forward_hook(response_states)
    try:
        with narrow_head_tiles():
            yield
    finally:
        handle.remove()


def _of_passes(config: Config) -> tuple[Any, ...]:
    """What the passes depend on beside their numbers of responses, and no change that `mapft plan` tries touches."""
    on_cpu, tokens, width = config.launch.name == "cpu", config.sampling.max_new_tokens, config.trainer.critic_width
    return config.model.path, config.adapter, _dtype(config), on_cpu, tokens, width


def _ids(rows: int, width: int) -> Any:
    return torch.zeros(rows, width, dtype=torch.long)


# ---------------------------------------------------------------------- models without weights


def meta_policy(config: Config, layers: int | None = None, first: int = 0) -> Any:
    """The policy on the meta device with LoRA and fused LM head. layers: keep so many of them only, from `first` on."""
    from peft import get_peft_model
    from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM

    from mapft.ppo.policy import switch_off_dropout
    from mapft.ppo.trl_seam import add_fused_lm_head
    from mapft.training.adapter import fitting, lora_config

    model = config.model
    path = existing_or_hub(model.path, "model.path")
    options: dict[str, Any] = {"revision": model.revision, "trust_remote_code": model.trust_remote_code}
    AttentionInterface.register("mapft_fused", fused_attention)
    with working_on(f"model.path={model.path}", "cannot be loaded as a causal language model"):
        settings = AutoConfig.from_pretrained(path, **options)
    with torch.device("meta"):
        causal = AutoModelForCausalLM.from_config(
            settings,
            dtype=_dtype(config),
            attn_implementation="mapft_fused",
            trust_remote_code=model.trust_remote_code,
        )
        add_fused_lm_head(causal, outputs=("log_probs", "entropy"))
    with torch.device("meta"), fitting(causal, config):
        policy = get_peft_model(causal, lora_config(config))
    for parameter in filter(lambda p: p.requires_grad, policy.parameters()):
        parameter.data = parameter.data.float()
    switch_off_dropout(policy)
    if layers is not None:
        decoder = decoder_layers(policy)
        first = min(first, len(decoder) - layers)
        del decoder[first + layers :]
        del decoder[:first]
    return policy


def new_critic(config: Config, features: int) -> Critic:
    """The critic of the trainer. features: hidden size of the base."""
    return Critic(features, config.trainer.critic_width, config.trainer.critic_learning_rate)


def decoder_layers(policy: Any) -> Any:
    """The decoder's layers; empty where they are not in one ModuleList."""
    count = getattr(policy.config.get_text_config(), "num_hidden_layers", 0)
    lists = (m for m in policy.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == count)
    return next(lists, [])


def first_trained_layer(policy: Any) -> int:
    """Number of the first decoder layer with an adapter; 0 where there is none."""
    trained = (any(p.requires_grad for p in layer.parameters()) for layer in decoder_layers(policy))
    return next((number for number, has_adapter in enumerate(trained) if has_adapter), 0)


def _to_fake(policy: Any) -> None:
    """Replace meta tensors, which some model code rejects, by fake ones; tied parameters stay tied."""
    fakes: dict[int, Any] = {}
    for module in policy.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                tensor = torch.empty(parameter.shape, dtype=parameter.dtype)
                fake = torch.nn.Parameter(tensor, parameter.requires_grad)
                module._parameters[name] = fakes.setdefault(id(parameter), fake)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)


def _dtype(config: Config) -> torch.dtype:
    auto = "float32" if config.launch.name == "cpu" else "bfloat16"
    return getattr(torch, auto if config.model.dtype is Dtype.auto else config.model.dtype.value)
