"""The inputs of a causal language model's forward pass."""

import inspect
from typing import Any

from torch import Tensor


def model_inputs(model: Any, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
    """input_ids and attention_mask, with position ids counted from the mask where the architecture takes them.

    With padding on the left, absolute positions (GPT-2) counted from column 0 would change every log-probability.
    model: the causal model itself, without wrappers.
    """
    inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
    if "position_ids" in inspect.signature(model.forward).parameters:
        inputs["position_ids"] = (attention_mask.cumsum(-1) - 1).clamp(min=0)
    return inputs
