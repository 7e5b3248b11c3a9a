"""Memory of one device during training: persistent parts, and the phase that needs most beyond them.

    peak = base + adapter + critic + reward models + context + max over phases

README.md of this folder states the formula of each part, and how the batches are chosen.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psutil
import torch

from mapft.config import Batches, Config, Quantization, Residency
from mapft.planning.batches import CHOSEN, choose
from mapft.planning.phases import Phases, decoder_layers, new_critic, without_data
from mapft.rewards import Score, parse
from mapft.rewards.loader import residency_for
from mapft.utils.device import free_bytes
from mapft.utils.errors import UserError
from mapft.utils.gpus import visible_gpus

GB = 10**9
CONTEXT = 1.2 * GB  # of a GPU process: CUDA context, cuBLAS workspaces, fragmentation
USABLE = 0.94  # share of a device's memory that an allocator can fill
FAST_ON_CPU = 1.5 * GB  # larger passes are no faster on a CPU
SHARDED = ("zero3", "fsdp2")
ZERO2 = ("zero2", "multi_node")
GATHERED_LAYERS = 2  # at a time, where the base is sharded


@dataclass(frozen=True)
class Memory:
    """Bytes on one device by name: `persistent` parts, and what each of `phases` needs beyond them with `batches`."""

    persistent: dict[str, float]
    phases: dict[str, float]
    batches: Batches

    @property
    def peak(self) -> float:
        """The largest number of bytes in use at a time."""
        return sum(self.persistent.values()) + max(self.phases.values())


def capacity(config: Config) -> float:
    """Bytes of each device: launch.memory_gb, else what is free on this machine.

    Raises UserError where the memory of a GPU is unknown.
    """
    if config.launch.memory_gb is not None:
        return config.launch.memory_gb * GB
    if config.launch.name != "cpu" and not visible_gpus():
        raise UserError("No GPU is visible, so its memory is unknown; set it, for example launch.memory_gb=80.")
    return float(free_bytes())


def estimate(config: Config, phases: Phases, capacity: float) -> Memory:
    """Memory of training on each device under config.launch, with the batches that fit where settings leave them open.

    phases: of these settings or, to share what is measured, of others with the same policy. capacity: free bytes of a
    device. Raises UserError for a reward model whose configuration does not load, and CannotEstimate.
    """
    with without_data(config):
        return _estimate(config, phases.under(config), capacity)


def _estimate(config: Config, phases: Phases, capacity: float) -> Memory:
    base = _base(phases.policy, config.model.quantization)
    persistent = _persistent(config, phases.policy, base, capacity)
    gathered = _gathered(config, phases.policy, base)
    budget = USABLE * capacity - sum(persistent.values())
    if config.launch.name == "cpu":
        budget = min(budget, FAST_ON_CPU)
    batches = choose(config, phases, {name: budget - gathered.get(name, 0.0) for name in CHOSEN})
    peaks = phases.generation(batches.generation, max(config.trainer.rows_per_iteration, config.sampling.batch_size))
    peaks |= {"log_probs": phases.log_probs(batches.log_probs), "critic's fit": phases.critic()}
    peaks["update"] = phases.update(batches.micro_batch, checkpointing=batches.checkpointing)
    peaks = {name: peaks.get(name, 0.0) + gathered.get(name, 0.0) for name in {**peaks, **gathered}}
    return Memory(persistent, peaks, batches)


def _gathered(config: Config, policy: Any, base: float) -> dict[str, float]:
    """By phase, the weights of other processes that a process holds where the base is sharded."""
    processes = config.launch.processes
    if config.launch.name not in SHARDED or processes == 1:
        return {}
    others = base - base / processes
    layers = GATHERED_LAYERS * base / max(len(decoder_layers(policy)), 1)
    generation = dict.fromkeys(("load", "prefill", "decoding"), others)
    return generation | dict.fromkeys(("log_probs", "critic's fit", "update"), layers)


def _persistent(config: Config, policy: Any, base: float, capacity: float) -> dict[str, float]:
    processes = config.launch.processes
    shards = processes if config.launch.name in SHARDED else 1  # of all parameters
    optimizer_shards = processes if config.launch.name in (*ZERO2, *SHARDED) else 1  # of gradients and Adam
    trained = sum(p.numel() for p in policy.parameters() if p.requires_grad)
    critic = new_critic(config, policy.get_base_model().get_output_embeddings().in_features)
    persistent = {
        "base": base / shards,
        "adapter": trained * (4 / shards + 12 / optimizer_shards),
        "critic": sum(p.numel() for p in critic.parameters()) * 16.0,
    }
    persistent["reward models"] = _reward_models(config, parse(config.rewards), capacity, sum(persistent.values()))
    if config.launch.name != "cpu":
        persistent["context"] = CONTEXT
    if config.engine.python:
        persistent["vLLM servers"] = _servers(config, policy)
    return persistent


def _servers(config: Config, policy: Any) -> float:
    """Bytes of servers that the run starts, all on one device: frozen weights without quantization, and KV cache."""
    weights = sum(p.numel() * p.element_size() for p in policy.parameters() if not p.requires_grad)
    context = 0.0 if config.launch.name == "cpu" else CONTEXT
    return len(config.engine.urls) * (weights + config.engine.cache_gb * GB + context)


def _base(policy: Any, quantization: Quantization) -> float:
    """Bytes of the frozen parameters; bitsandbytes quantizes every linear layer but the LM head."""
    from transformers.pytorch_utils import Conv1D

    size = {Quantization.nf4: 0.5 + 1 / 16, Quantization.int8: 1.0}  # bytes of a weight
    head = policy.get_base_model().get_output_embeddings()
    linear = (m for m in policy.modules() if isinstance(m, torch.nn.Linear | Conv1D) and m is not head)
    quantized = {id(m.weight) for m in linear} if quantization in size else set()
    return sum(
        p.numel() * (size[quantization] if id(p) in quantized else p.element_size())
        for p in policy.parameters()
        if not p.requires_grad
    )


def _reward_models(config: Config, rewards: Mapping[str, Score], capacity: float, taken: float) -> float:
    """Bytes on the device. `auto` is resolved as the loader will, from the memory that is free at the first score."""
    sizes = {name: score.estimated_nbytes() for name, score in rewards.items()}
    for name, score in rewards.items():
        if sizes[name] == 0 and getattr(score, "path", None):
            raise UserError(
                f"rewards.{name}.path={getattr(score, 'path', None)} cannot be loaded, so its size is unknown; give a "
                "folder or Hub id of a model."
            )
    total, largest = float(sum(sizes.values())), float(max(sizes.values(), default=0))
    residency, on_cpu = config.mode.residency, config.launch.name == "cpu"
    if residency is None:
        return 0.0
    if residency is Residency.auto:
        host = None if on_cpu else psutil.virtual_memory().total
        residency = residency_for(int(total), int(capacity - taken), host)
    all_stay = residency is Residency.resident or (on_cpu and residency is Residency.offload)
    return total if all_stay else largest
