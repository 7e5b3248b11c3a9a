"""Forward passes of causal language models: their inputs, and log-probabilities of the tokens of responses.

Shapes: B responses, P prompt tokens (left-padded), T response tokens (right-padded), S = P + T, N response tokens of
all rows, K vocabulary, D features.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor
from transformers import PreTrainedModel

# (model, its causal model, inputs, labels_N, states_BS) -> log p(label), its entropy or None, input of the head (N, D)
Head = Callable[[Any, Any, dict[str, Tensor], Tensor, Tensor], tuple[Tensor, Tensor | None, Tensor]]


def causal_model(model: Any) -> Any:
    """The causal language model inside its adapter, and inside the wrapper of distributed training."""
    if not isinstance(model, PreTrainedModel | PeftModel):
        model = extract_model_from_parallel(model)
    return model.get_base_model() if isinstance(model, PeftModel) else model


def has_adapter_layers(model: Any) -> bool:
    """Whether layers of the model are wrapped by an adapter, also one that transformers put in without a PeftModel."""
    return any(isinstance(module, BaseTunerLayer) for module in model.modules())


def all_fp32(model: Any) -> bool:
    """Whether every weight is fp32, the adapter's included; quantized weights are not."""
    return all(weight.dtype == torch.float32 for weight in model.parameters())


def model_inputs(model: Any, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
    """input_ids and attention_mask, with position ids counted from the mask where the architecture takes them.

    With padding on the left, absolute positions (GPT-2) counted from column 0 would change every log-probability.
    model: the causal model itself, without wrappers.
    """
    inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
    if "position_ids" in inspect.signature(model.forward).parameters:
        inputs["position_ids"] = (attention_mask.cumsum(-1) - 1).clamp(min=0)
    return inputs


def response_log_probs(model: Any, batch: dict[str, Tensor], head: Head) -> tuple[Tensor, Tensor, Tensor]:
    """log p(token) and entropies (B, T) of the response tokens, fp32, and the input of the head before them (N, D).

    batch: prompt_ids and prompt_mask (B, P), completion_ids and mask (B, T). The token at column P + t is predicted by
    the state at column P + t - 1. Entropies are 0 where the head computes none.
    """
    causal, response_BT = causal_model(model), batch["mask"].bool()
    states_BS = torch.nn.functional.pad(response_BT, (batch["prompt_ids"].size(1) - 1, 1))
    input_ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    attention_mask = torch.cat([batch["prompt_mask"], batch["mask"]], dim=1)
    inputs, labels_N = model_inputs(causal, input_ids, attention_mask), batch["completion_ids"][response_BT]
    logp_N, entropy_N, hidden_ND = head(model, causal, inputs, labels_N, states_BS)
    zeros_BT = torch.zeros(response_BT.shape, device=response_BT.device)
    logp_BT = zeros_BT.masked_scatter(response_BT, logp_N.float())
    entropy_BT = zeros_BT if entropy_N is None else zeros_BT.masked_scatter(response_BT, entropy_N.float())
    return logp_BT, entropy_BT, hidden_ND


def own_head(
    model: Any,
    causal: Any,
    inputs: dict[str, Tensor],
    labels_N: Tensor,
    states_BS: Tensor,
    *,
    temperature: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """log softmax(logits / temperature) by the model's own forward, whose output embeddings receive N states alone."""
    states: list[Tensor] = []

    def select(module: Any, args: Any) -> Any:
        states.append(args[0][states_BS])
        return (states[0][None], *args[1:])

    handle = causal.get_output_embeddings().register_forward_pre_hook(select)
    try:
        logits_NK = model(**inputs, use_cache=False).logits[0].float() / temperature
    finally:
        handle.remove()
    log_p_NK = logits_NK.log_softmax(-1)
    logp_N = log_p_NK.gather(-1, labels_N[:, None]).squeeze(-1)
    entropies = [-(part.exp() * part).sum(-1) for part in log_p_NK.detach().split(256)]  # 256 rows bound the memory
    return logp_N, torch.cat(entropies), states[0].detach()
