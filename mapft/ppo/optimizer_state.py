"""The optimizer's state by parameter name, complete on one process however the backend shards it.

A state that is saved here is read again under any number of processes, with or without DeepSpeed: a run that began on
eight GPUs can continue on one. It is meant for adapters, whose state is small; the state of all weights of a model
stays in its backend's own files.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mapft.ppo.trl_seam import STEP, begin_deepspeed_state, deepspeed_state, is_deepspeed, set_deepspeed_state

FILE = "optimizer.safetensors"  # in a checkpoint


def gather_state(model: nn.Module, optimizer: Any) -> dict[str, Tensor]:
    """{parameter name/state name: tensor on the CPU}; every process must take part. Empty before the first step."""
    return {
        f"{name}/{key}": tensor.detach().cpu().contiguous().clone()
        for name, parameter in _trained(model)
        for key, tensor in _state_of(parameter, optimizer).items()
    }


def restore_state(state: dict[str, Tensor], model: nn.Module, optimizer: Any) -> None:
    """Put the result of `gather_state` back, on every process."""
    if is_deepspeed(optimizer):
        begin_deepspeed_state(optimizer, {key.rpartition("/")[2] for key in state})
    for name, parameter in _trained(model):
        own = {key.rpartition("/")[2]: tensor for key, tensor in state.items() if key.rpartition("/")[0] == name}
        if is_deepspeed(optimizer):
            set_deepspeed_state(optimizer, parameter, own)
        else:
            optimizer.state[parameter] = {key: _placed(key, tensor, parameter) for key, tensor in own.items()}


def save(folder: Path, state: dict[str, Tensor]) -> None:
    """Write folder/optimizer.safetensors."""
    save_file(state, folder / FILE)


def load(folder: Path) -> dict[str, Tensor]:
    """What `save` wrote."""
    return load_file(folder / FILE)


def innermost(optimizer: Any) -> Any:
    """The optimizer inside accelerate's wrapper: torch's own, or DeepSpeed's."""
    while hasattr(optimizer, "optimizer") and not is_deepspeed(optimizer):
        optimizer = optimizer.optimizer
    return optimizer


def _trained(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]


def _state_of(parameter: nn.Parameter, optimizer: Any) -> dict[str, Tensor]:
    if is_deepspeed(optimizer):
        return deepspeed_state(optimizer, parameter)
    return {key: torch.as_tensor(number) for key, number in optimizer.state.get(parameter, {}).items()}


def _placed(key: str, tensor: Tensor, parameter: nn.Parameter) -> Tensor:
    """On the parameter's device; torch keeps the count of steps on the CPU."""
    return tensor.clone() if key == STEP else tensor.to(parameter.device)
