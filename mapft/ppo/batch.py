"""A rollout as tensors, and the passes that read it.

Shapes: B responses, P prompt tokens (left-padded), T response tokens (right-padded), D features.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn

Batch = dict[str, Tensor]


def take(batch: Batch, rows: Tensor) -> Batch:
    """Those rows, without the columns that are padding in all of them."""
    width = int(batch["prompt_mask"][rows].sum(1).max())
    length = int(batch["mask"][rows].sum(1).max())
    return {
        name: array[rows, -width:] if name.startswith("prompt") else array[rows, :length]
        for name, array in batch.items()
    }


def causal_model(model: Any) -> Any:
    """The causal language model inside its adapter."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def all_fp32(causal: Any) -> bool:
    """Whether every number of the model is fp32, its adapter's too."""
    quantized = getattr(causal, "hf_quantizer", None) is not None
    return not quantized and all(p.dtype == torch.float32 for p in causal.parameters() if p.is_floating_point())


def switch_off_dropout(model: nn.Module) -> None:
    """No dropout and no skipped layers in training mode.

    TRL switches off dropout modules alone; many architectures (OPT, Llama, Qwen) drop by a rate of their own, a plain
    number such as `dropout`, `attention_dropout` or `layerdrop`, and some (Falcon) read it from their config.
    """
    for module in model.modules():
        for owner in (module, getattr(module, "config", module)):
            for name, rate in vars(owner).items():
                if isinstance(rate, float) and ("drop" in name or isinstance(owner, nn.Dropout)):
                    setattr(owner, name, 0.0)


@contextmanager
def response_states(causal: Any, mask_BT: Tensor, prompt_width: int) -> Iterator[list[Tensor]]:
    """Inside, the LM head gets one row (1, N, D): the states from which the N chosen response tokens were drawn.

    The token at column P + t is drawn from the state at column P + t - 1. The list receives that row, detached, (N, D).
    """
    states = torch.nn.functional.pad(mask_BT, (prompt_width - 1, 1))
    seen: list[Tensor] = []

    def keep_states(module: Any, args: Any, output: Any) -> Any:
        output.last_hidden_state = output.last_hidden_state[states][None]
        seen.append(output.last_hidden_state[0].detach())
        return output

    handle = causal.base_model.register_forward_hook(keep_states)
    try:
        yield seen
    finally:
        handle.remove()
