"""The optimizer's state by parameter name and whole, whatever backend has sharded it.

What is written so is read again under any number of processes, with or without DeepSpeed: a run that began on eight
GPUs goes on on one. It serves adapters, whose state is small; a whole model's stays in its backend's own files.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

FILE = "optimizer.safetensors"  # in a checkpoint
STEP = "step"


def whole(model: nn.Module, optimizer: Any) -> dict[str, Tensor]:
    """{parameter name/state name: tensor on the CPU}; every process must take part. Empty before the first step."""
    return {
        f"{name}/{key}": given.detach().cpu().contiguous().clone()
        for name, parameter in _trained(model)
        for key, given in _state_of(parameter, optimizer).items()
    }


def restore(state: dict[str, Tensor], model: nn.Module, optimizer: Any) -> None:
    """Put `whole` back, on every process."""
    if _is_sharded(optimizer):
        _begin_shards(optimizer, {key.rpartition("/")[2] for key in state})
    for name, parameter in _trained(model):
        own = {key.rpartition("/")[2]: given for key, given in state.items() if key.rpartition("/")[0] == name}
        if _is_sharded(optimizer):
            _restore_shard(parameter, optimizer, own)
        else:
            optimizer.state[parameter] = {key: _placed(key, given, parameter) for key, given in own.items()}


def save(folder: Path, state: dict[str, Tensor]) -> None:
    """folder/optimizer.safetensors."""
    save_file(state, folder / FILE)


def load(folder: Path) -> dict[str, Tensor]:
    """What `save` wrote."""
    return load_file(folder / FILE)


def innermost(optimizer: Any) -> Any:
    """The optimizer inside accelerate's wrapper: torch's own, or DeepSpeed's."""
    while hasattr(optimizer, "optimizer") and not _is_sharded(optimizer):
        optimizer = optimizer.optimizer
    return optimizer


def _trained(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]


def _is_sharded(optimizer: Any) -> bool:
    return type(optimizer).__module__.startswith("deepspeed.")


def _placed(key: str, given: Tensor, parameter: nn.Parameter) -> Tensor:
    """torch keeps the count of steps on the CPU."""
    return given.clone() if key == STEP else given.to(parameter.device)


def _state_of(parameter: nn.Parameter, optimizer: Any) -> dict[str, Tensor]:
    if not _is_sharded(optimizer):
        return {key: torch.as_tensor(given) for key, given in optimizer.state.get(parameter, {}).items()}
    from deepspeed.utils import safe_get_full_optimizer_state

    shards = [shard for shard in optimizer.optimizer.state.values() if STEP in shard]
    keys = [key for key in shards[0] if key != STEP] if shards else []
    found = {key: safe_get_full_optimizer_state(parameter, key) for key in keys}
    return found | {STEP: torch.as_tensor(shards[0][STEP]).float()} if shards else {}


def _restore_shard(parameter: nn.Parameter, optimizer: Any, own: dict[str, Tensor]) -> None:
    from deepspeed.utils import safe_set_full_optimizer_state

    for key, given in own.items():
        if key != STEP:
            safe_set_full_optimizer_state(parameter, given, key)
    for shard in optimizer.optimizer.state.values():
        if STEP in own:
            shard[STEP] = own[STEP].clone()


def _begin_shards(optimizer: Any, keys: set[str]) -> None:
    """DeepSpeed makes its state at the first step; made before, it can be filled. ZeRO-1 and 2, or ZeRO-3."""
    flat = getattr(optimizer, "single_partition_of_fp32_groups", None) or optimizer.fp32_partitioned_groups_flat
    for shard in flat:
        optimizer.optimizer.state[shard] = {
            key: torch.zeros(()) if key == STEP else torch.zeros_like(shard) for key in keys
        }
    if hasattr(optimizer, "single_partition_of_fp32_groups"):
        optimizer._lazy_init_hp_params_optimizer_state()
