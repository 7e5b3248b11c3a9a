"""The policy as PPO needs it: without dropout, with trainable weights in fp32 and no decoding defaults of its own."""

from typing import Any

from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor, nn
from transformers import GenerationConfig


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


def adapter_state(model: Any) -> dict[str, Tensor]:
    """A copy of the adapter's weights; empty for a model without one."""
    if not isinstance(model, PeftModel):
        return {}
    state = get_peft_model_state_dict(model, adapter_name="default", save_embedding_layers=False)
    return {name: weight.detach().clone() for name, weight in state.items()}


def restore_adapter(model: Any, state: dict[str, Tensor]) -> None:
    """Trainable weights in fp32, and the weights of `adapter_state` in the adapter and in its frozen copy `ref`.

    TRL's copy of a trained adapter leaves out embeddings, and over a quantized base it casts the adapter to bf16,
    where small steps are lost.
    """
    if not isinstance(model, PeftModel):
        return
    for parameter in filter(lambda p: p.requires_grad, model.parameters()):
        parameter.data = parameter.data.float()
    for name in ("default", "ref") if state else ():
        set_peft_model_state_dict(model, state, adapter_name=name)


def remove_decoding_defaults(causal: Any, eos_token_ids: list[int], pad_token_id: int) -> None:
    """A generation config of special tokens alone: defaults such as top_k of the model's own would move the policy."""
    causal.generation_config = GenerationConfig(
        bos_token_id=causal.generation_config.bos_token_id, eos_token_id=eos_token_ids, pad_token_id=pad_token_id
    )
