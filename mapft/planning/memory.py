"""Memory of one device while a policy is trained: what stays, and the phase that takes most on top.

    peak = base + adapter + critic + reward models + rollout + max over phases

With P_b base and P_a adapter parameters, n processes, B responses of a rollout on this device, micro-batches of M
rows, L = P + T prompt and response tokens, D features:

    base           P_b * bytes(dtype); nf4 .5 + 1/16 a linear weight (block absmax), int8 1; / n under ZeRO-3 and FSDP2
    adapter        P_a * (4 weights + 4 gradients + 8 Adam) bytes; ZeRO-2 splits gradients and Adam over n, ZeRO-3 all
    critic         P_c * 16 bytes
    reward models  resident: all; offload (beside a GPU), one_at_a_time and sequential mode: the largest

and B * T * D * bytes of features for the critic on top of log_probs and the critic's fit.

The phases (prefill, decoding, log-probabilities, the critic's fit, an update) are no formulae: `phases` runs the policy
itself on PyTorch's fake tensors, which have shapes and no numbers, and counts the bytes alive (`trace.Live`), so any
architecture, LoRA, gradient checkpointing and the fused LM head count as what they are. Attention counts as a fused
kernel, without (L, L) scores. A deep model is run with TRACED layers, and the line through both gives the rest. Under
ZeRO-3 and FSDP2 two layers are gathered at a time, but every process loads the base whole, and TRL gathers it whole to
generate: sharding takes memory from the passes alone.

Measured against: the peak of the process on a CPU (tests/test_planning.py). GPU figures are predictions that nobody
has measured yet; allocator and CUDA context (`CONTEXT`) are added there.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psutil
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from mapft.config import Config, DPOMode, Dtype, Quantization, Residency, SequentialMode, SimultaneousMode
from mapft.errors import UserError
from mapft.paths import existing_or_hub
from mapft.planning.trace import Live, fused_attention
from mapft.ppo.critic import Critic
from mapft.rewards import Score, parse
from mapft.rewards.loader import residency_for

GB = 10**9
CONTEXT = 1.2 * GB  # CUDA context, cuBLAS workspaces and fragmentation of a GPU process
SHARDED = ("zero3", "fsdp2")
SPLIT = ("zero2", "multi_node")
TRACED = (2, 4)
MODULES = 2  # layers that are gathered at a time where the base is sharded


@dataclass(frozen=True)
class Memory:
    """Bytes on one device. `stays` and `phases` by name; a phase is on top of what stays."""

    stays: dict[str, float]
    phases: dict[str, float]

    @property
    def peak(self) -> float:
        """Most bytes at a time."""
        return sum(self.stays.values()) + max(self.phases.values())


def estimate(config: Config, capacity: float) -> Memory:
    """What training takes on each device under config.launch, each of which holds `capacity` bytes.

    Raises UserError for a policy or reward model whose configuration does not load.
    """
    on_gpu, sharded, n = config.launch.name != "cpu", config.launch.name in SHARDED, config.launch.processes
    policy = _policy(config, _dtype(config))
    base = _base(policy, config.model.quantization)
    trained = sum(p.numel() for p in policy.parameters() if p.requires_grad)
    features = policy.get_base_model().get_output_embeddings().in_features
    critic_size = sum(p.numel() for p in _critic(config, features).parameters())
    split = n if config.launch.name in SPLIT or sharded else 1
    rollout, width = rollout_rows(config), config.data.max_prompt_tokens + config.sampling.max_new_tokens
    layers = _layers(policy)
    rewards = parse(config.rewards)
    sharded = sharded and n > 1
    stays = {
        "base": base / n if sharded else base,
        "adapter": trained * (4 / (n if sharded else 1) + 12 / split),
        "critic": critic_size * 16.0,
    }
    stays["reward models"] = _reward_models(config, rewards, capacity, sum(stays.values()))
    if on_gpu:
        stays["context"] = CONTEXT
    if len(layers) <= TRACED[1]:
        tops = phases(config, policy, rollout, width)
    else:
        fewer, more = (phases(config, _policy(config, _dtype(config), count), rollout, width) for count in TRACED)
        slope = (len(layers) - TRACED[1]) / (TRACED[1] - TRACED[0])
        tops = {name: more[name] + slope * (more[name] - fewer[name]) for name in more}
    features_size = rollout * config.sampling.max_new_tokens * features * policy.dtype.itemsize
    for name in ("log_probs", "critic's fit"):
        tops[name] += features_size
    if sharded:
        gathered = MODULES * base / max(len(layers), 1)
        whole = {"prefill": base - base / n, "decoding": base - base / n}
        tops = {name: size + whole.get(name, gathered) for name, size in tops.items()} | {"load": base - base / n}
    return Memory(stays, tops)


def phases(config: Config, policy: Any, rollout: int, width: int) -> dict[str, float]:
    """Bytes that each phase of an iteration has alive at most, beyond what stays. policy: on the meta device."""
    with FakeTensorMode():
        _fake(policy)
        return _phases(config, policy, rollout, width)


def _phases(config: Config, policy: Any, rollout: int, width: int) -> dict[str, float]:
    trainer, tokens = config.trainer, config.sampling.max_new_tokens
    causal = policy.get_base_model()
    features = causal.get_output_embeddings().in_features
    critic = _critic(config, features)
    vocabulary = causal.get_output_embeddings().weight.size(0)
    prompt = width - tokens

    def prefill() -> None:
        policy(input_ids=_ids(rollout, prompt), use_cache=True, logits_to_keep=1)

    def decode() -> None:
        before = policy(input_ids=_ids(rollout, width - 1), use_cache=True, logits_to_keep=1)
        name = "cache" if "cache" in before else "past_key_values"  # as transformers before 5.24 calls it
        cache = {name: before[name]}
        del before
        live.most = live.now  # of a prefill that long nothing but its cache is real
        policy(input_ids=_ids(rollout, 1), **cache, use_cache=True, logits_to_keep=1)

    def passed(rows: int) -> Any:
        labels = torch.zeros(1, rows * tokens, dtype=torch.long)
        return policy(input_ids=_ids(rows, width), shift_labels=labels, fused_lm_head=True).log_probs

    def of_critic() -> None:
        rows = min(trainer.critic_minibatch, rollout)
        states = torch.empty(rows, tokens, features)
        critic(states, torch.ones(rows, tokens)).sum().backward()

    live = Live()

    def measured(run: Callable[[], Any]) -> float:
        live.reset()
        with live:
            run()
        return float(live.most)

    draws = 5.0 * rollout * vocabulary * 4  # logits, log-softmax, probabilities and two copies, fp32
    half = config.launch.name != "cpu" and policy.dtype == torch.bfloat16  # where the trainer runs under autocast
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=half)
    policy.eval()
    with torch.no_grad():
        generation = {"prefill": measured(prefill) + draws, "decoding": measured(decode) + draws}
        with autocast, _fused_head(causal, tokens):
            log_probs = measured(lambda: passed(min(trainer.local_rollout_forward_batch_size, rollout)))
    policy.train()
    if trainer.gradient_checkpointing:
        causal.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        causal.enable_input_require_grads()
    for parameter in filter(lambda p: p.requires_grad, policy.parameters()):
        parameter.grad = torch.empty_like(parameter)  # counted as the adapter's
    with autocast, _fused_head(causal, tokens):
        update = measured(lambda: passed(min(trainer.per_device_train_batch_size, rollout)).sum().backward())
    return generation | {"log_probs": log_probs, "critic's fit": measured(of_critic), "update": update}


@contextmanager
def _fused_head(causal: Any, tokens: int) -> Iterator[None]:
    """Inside, TRL's fused LM head reads the states of the responses alone, as in the trainer."""

    def cut(module: Any, args: Any, output: Any) -> Any:
        states = output.last_hidden_state[:, -tokens - 1 : -1]
        output.last_hidden_state = states.reshape(1, -1, states.size(-1))
        return output

    handle = causal.base_model.register_forward_hook(cut)
    try:
        yield
    finally:
        handle.remove()


def _critic(config: Config, features: int) -> Critic:
    return Critic(features, config.trainer.critic_width, config.trainer.critic_learning_rate)


def _layers(policy: Any) -> Any:
    """The decoder's layers, or no list where it does not keep them in one."""
    count = getattr(policy.config.get_text_config(), "num_hidden_layers", 0)
    lists = (m for m in policy.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == count)
    return next(lists, [])


def _policy(config: Config, dtype: torch.dtype, layers: int | None = None) -> Any:
    """The policy on the meta device, LoRA and fused LM head included; its first layers alone, if so many are given."""
    from peft import get_peft_model
    from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM
    from trl.trainer.utils import add_fused_lm_head

    from mapft.align.fit import lora_config
    from mapft.ppo.batch import switch_off_dropout

    model = config.model
    path = existing_or_hub(model.path, "model.path")
    options: dict[str, Any] = {"revision": model.revision, "trust_remote_code": model.trust_remote_code}
    AttentionInterface.register("mapft_fused", fused_attention)
    try:
        settings = AutoConfig.from_pretrained(path, **options)
        with torch.device("meta"):
            causal = AutoModelForCausalLM.from_config(
                settings, dtype=dtype, attn_implementation="mapft_fused", trust_remote_code=model.trust_remote_code
            )
            add_fused_lm_head(causal, outputs=("log_probs", "entropy"))
            policy = get_peft_model(causal, lora_config(config))
    except (OSError, ValueError) as error:
        raise UserError(f"model.path={model.path} holds no causal language model to plan for: {error}") from error
    for parameter in filter(lambda p: p.requires_grad, policy.parameters()):
        parameter.data = parameter.data.float()
    switch_off_dropout(policy)
    if layers is not None:
        del _layers(policy)[layers:]
    return policy


def _fake(policy: Any) -> None:
    """Fake tensors in place of the meta device's, on which not all code runs; what is shared stays shared."""
    made: dict[int, Any] = {}
    for module in policy.modules():
        for name, given in module._parameters.items():
            if given is not None:
                fake = torch.nn.Parameter(torch.empty(given.shape, dtype=given.dtype), given.requires_grad)
                module._parameters[name] = made.setdefault(id(given), fake)
        for name, given in module._buffers.items():
            if given is not None:
                module._buffers[name] = torch.empty(given.shape, dtype=given.dtype)


def _dtype(config: Config) -> torch.dtype:
    auto = "float32" if config.launch.name == "cpu" else "bfloat16"
    return getattr(torch, auto if config.model.dtype is Dtype.auto else config.model.dtype.value)


def _base(policy: Any, quantization: Quantization) -> float:
    """Bytes of what is frozen; bitsandbytes packs every linear layer but the LM head."""
    from transformers.pytorch_utils import Conv1D

    size, head = (
        {Quantization.nf4: 0.5 + 1 / 16, Quantization.int8: 1.0},
        policy.get_base_model().get_output_embeddings(),
    )
    linear = (m for m in policy.modules() if isinstance(m, torch.nn.Linear | Conv1D) and m is not head)
    packed = {id(m.weight) for m in linear} if quantization in size else set()
    return sum(
        p.numel() * (size[quantization] if id(p) in packed else p.element_size())
        for p in policy.parameters()
        if not p.requires_grad
    )


def _reward_models(config: Config, rewards: Mapping[str, Score], capacity: float, taken: float) -> float:
    """Bytes on the device; `auto` as the loader will choose it, by what is free when the first score is asked for."""
    sizes = {name: score.estimated_nbytes() for name, score in rewards.items()}
    for name, score in rewards.items():
        if sizes[name] == 0 and getattr(score, "path", None):
            raise UserError(
                f"rewards.{name}.path={getattr(score, 'path', None)} does not load, so its size is unknown."
            )
    all_of_them, largest = float(sum(sizes.values())), float(max(sizes.values(), default=0))
    mode, on_cpu = config.mode, config.launch.name == "cpu"
    if isinstance(mode, SequentialMode):
        return largest
    if isinstance(mode, DPOMode):
        return 0.0
    residency = mode.reward_models if isinstance(mode, SimultaneousMode) else Residency.auto
    if residency is Residency.auto:
        host = None if on_cpu else psutil.virtual_memory().total
        residency = residency_for(int(all_of_them), int(capacity - taken), host)
    stay = residency is Residency.resident or (on_cpu and residency is Residency.offload)
    return all_of_them if stay else largest


def rollout_rows(config: Config) -> int:
    """Responses of a rollout on one device."""
    trainer = config.trainer
    return trainer.per_device_train_batch_size * trainer.gradient_accumulation_steps * trainer.num_mini_batches


def _ids(rows: int, width: int) -> Any:
    return torch.zeros(rows, width, dtype=torch.long)
