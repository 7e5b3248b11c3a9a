"""Memory of one device during training: persistent parts, and the phase that needs most beyond them.

    peak = base + adapter + critic + reward models + context + max over phases

README.md of this folder states the formula of each part.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psutil
import torch

from mapft.config import Config, Quantization, Residency
from mapft.planning.phases import decoder_layers, meta_policy, new_critic, peak_bytes_by_phase, rollout_rows
from mapft.rewards import Score, parse
from mapft.rewards.loader import residency_for
from mapft.utils.errors import UserError, working_on

GB = 10**9
CONTEXT = 1.2 * GB  # of a GPU process: CUDA context, cuBLAS workspaces, fragmentation
SHARDED = ("zero3", "fsdp2")
ZERO2 = ("zero2", "multi_node")
GATHERED_LAYERS = 2  # at a time, where the base is sharded


@dataclass(frozen=True)
class Memory:
    """Bytes on one device by name: `persistent` parts, and what each of `phases` needs beyond them."""

    persistent: dict[str, float]
    phases: dict[str, float]

    @property
    def peak(self) -> float:
        """The largest number of bytes in use at a time."""
        return sum(self.persistent.values()) + max(self.phases.values())


def estimate(config: Config, capacity: float) -> Memory:
    """Memory of training on each device under config.launch. capacity: bytes of a device.

    Raises UserError for a policy or reward model whose configuration does not load.
    """
    policy = meta_policy(config)
    base = _base(policy, config.model.quantization)
    persistent = _persistent(config, policy, base, capacity)
    with working_on(f"model.path={config.model.path}", "may run, but its memory cannot be planned"):
        phases = peak_bytes_by_phase(config, policy)
    features = policy.get_base_model().get_output_embeddings().in_features
    for name in ("log_probs", "critic's fit"):
        phases[name] += rollout_rows(config) * config.sampling.max_new_tokens * features * policy.dtype.itemsize
    processes = config.launch.processes
    if config.launch.name in SHARDED and processes > 1:
        gathered = GATHERED_LAYERS * base / max(len(decoder_layers(policy)), 1)
        others = base - base / processes  # shards of the other processes
        generation = {"prefill": others, "decoding": others}
        phases = {name: size + generation.get(name, gathered) for name, size in phases.items()} | {"load": others}
    return Memory(persistent, phases)


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
    return persistent


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
