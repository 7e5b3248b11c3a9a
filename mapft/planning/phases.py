"""Peak memory of each phase of a PPO iteration, measured on fake tensors (README.md of this folder)."""

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
from mapft.utils.errors import working_on

TRACED_LAYERS = (2, 4)  # a deeper model is extrapolated linearly from models of so many layers


def peak_bytes_by_phase(config: Config, policy: Any) -> dict[str, float]:
    """Bytes that each phase needs beyond the persistent parts. policy: of `meta_policy`."""
    depth, (few, many) = len(decoder_layers(policy)), TRACED_LAYERS
    if depth <= many:
        return _fake_peaks(config, policy)
    smaller, larger = (_fake_peaks(config, meta_policy(config, layers)) for layers in TRACED_LAYERS)
    slope = (depth - many) / (many - few)
    return {name: larger[name] + slope * (larger[name] - smaller[name]) for name in larger}


def _fake_peaks(config: Config, policy: Any) -> dict[str, float]:
    with FakeTensorMode():
        _to_fake(policy)
        return _peaks(config, policy)


def _peaks(config: Config, policy: Any) -> dict[str, float]:
    trainer, tokens = config.trainer, config.sampling.max_new_tokens
    rollout, width = rollout_rows(config), config.data.max_prompt_tokens + tokens
    causal = policy.get_base_model()
    features = causal.get_output_embeddings().in_features
    critic = new_critic(config, features)
    vocabulary = causal.get_output_embeddings().weight.size(0)
    prompt = width - tokens

    def prefill() -> None:
        policy(input_ids=_ids(rollout, prompt), use_cache=True, logits_to_keep=1)

    def decode() -> None:
        before = policy(input_ids=_ids(rollout, width - 1), use_cache=True, logits_to_keep=1)
        name = "cache" if "cache" in before else "past_key_values"  # as transformers before 5.24 calls it
        cache = {name: before[name]}
        del before
        tracker.peak = tracker.now  # of this prefill, only the cache exists in real decoding
        policy(input_ids=_ids(rollout, 1), **cache, use_cache=True, logits_to_keep=1)

    def response_log_probs(rows: int) -> Any:
        labels = torch.zeros(1, rows * tokens, dtype=torch.long)
        return policy(input_ids=_ids(rows, width), shift_labels=labels, fused_lm_head=True).log_probs

    def critic_step() -> None:
        rows = min(trainer.critic_minibatch, rollout)
        states = torch.empty(rows, tokens, features)
        critic(states, torch.ones(rows, tokens)).sum().backward()

    tracker = MemoryTracker()

    def peak_bytes(run: Callable[[], Any]) -> float:
        tracker.reset()
        with tracker:
            run()
        return float(tracker.peak)

    sampling = 5.0 * rollout * vocabulary * 4  # logits, log-softmax, probabilities and two copies, fp32
    half = config.launch.name != "cpu" and policy.dtype == torch.bfloat16  # where the trainer runs under autocast
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=half)
    policy.eval()
    with torch.no_grad():
        generation = {"prefill": peak_bytes(prefill) + sampling, "decoding": peak_bytes(decode) + sampling}
        with autocast, _fused_head(causal, tokens):
            log_probs = peak_bytes(lambda: response_log_probs(min(trainer.local_rollout_forward_batch_size, rollout)))
    policy.train()
    if trainer.gradient_checkpointing:
        causal.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        causal.enable_input_require_grads()
    for parameter in filter(lambda p: p.requires_grad, policy.parameters()):
        parameter.grad = torch.empty_like(parameter)  # counted as the adapter's
    with autocast, _fused_head(causal, tokens):
        fresh = min(trainer.per_device_train_batch_size, rollout)
        replayed = -(-trainer.replay_batch // trainer.gradient_accumulation_steps)
        batches = [rows for rows in (fresh, replayed) if rows]
        update = peak_bytes(lambda: sum(response_log_probs(rows).sum() for rows in batches).backward())
    return generation | {"log_probs": log_probs, "critic's fit": peak_bytes(critic_step), "update": update}


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


def rollout_rows(config: Config) -> int:
    """Responses of a rollout on one device."""
    trainer = config.trainer
    return trainer.per_device_train_batch_size * trainer.gradient_accumulation_steps * trainer.num_mini_batches


def _ids(rows: int, width: int) -> Any:
    return torch.zeros(rows, width, dtype=torch.long)


# ---------------------------------------------------------------------- models without weights


def meta_policy(config: Config, layers: int | None = None) -> Any:
    """The policy on the meta device with LoRA and fused LM head. layers: keep the first of them only."""
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
        del decoder_layers(policy)[layers:]
    return policy


def new_critic(config: Config, features: int) -> Critic:
    """The critic of the trainer. features: hidden size of the base."""
    return Critic(features, config.trainer.critic_width, config.trainer.critic_learning_rate)


def decoder_layers(policy: Any) -> Any:
    """The decoder's layers; empty where they are not in one ModuleList."""
    count = getattr(policy.config.get_text_config(), "num_hidden_layers", 0)
    lists = (m for m in policy.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == count)
    return next(lists, [])


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
