"""Loading a policy and its tokenizer, the same way for every stage."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from mapft.config import Dtype, ModelConfig
from mapft.errors import UserError
from mapft.forward import device
from mapft.paths import existing_or_hub


def load_policy(model: ModelConfig) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Base policy on this process's device, and its tokenizer padding on the left.

    The model's own decoding defaults (top_k, repetition penalty, ...) are dropped; only its special tokens stay.
    """
    path = existing_or_hub(model.path, "model.path")
    options: dict[str, Any] = {"revision": model.revision, "trust_remote_code": model.trust_remote_code}
    half = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    dtype = ("bfloat16" if half else "float32") if model.dtype == Dtype.auto else model.dtype.value
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, padding_side="left", truncation_side="left", **options)
        policy, loading = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=getattr(torch, dtype),
            attn_implementation=model.attn_implementation,
            output_loading_info=True,
            **options,
        )
    except (OSError, ValueError) as error:
        raise UserError(f"model.path={model.path} holds no causal language model that loads: {error}") from error
    if loading["missing_keys"]:
        raise UserError(
            f"model.path={model.path} lacks weights ({sorted(loading['missing_keys'])[0]} and "
            f"{len(loading['missing_keys']) - 1} more), which would be random; give a causal language model."
        )
    if tokenizer.eos_token_id is None:
        raise UserError(f"The tokenizer of {model.path} has no EOS token, so no response could end; add one to it.")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    neutralize_decoding(policy, tokenizer)
    return policy.eval().to(device()), tokenizer


def neutralize_decoding(policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Leave nothing in the model's generation_config but its special tokens."""
    own = policy.generation_config
    ends = own.eos_token_id if own is not None and own.eos_token_id is not None else []
    ends = [ends] if isinstance(ends, int) else list(ends)
    policy.generation_config = GenerationConfig(
        bos_token_id=own.bos_token_id if own is not None else None,
        eos_token_id=ends if tokenizer.eos_token_id in ends else [tokenizer.eos_token_id, *ends],
        pad_token_id=tokenizer.pad_token_id,
    )


def with_adapter(policy: PreTrainedModel, adapter: Path) -> Any:
    """The policy with a trained adapter switched on; `disable_adapter()` gives the base back."""
    from peft import PeftModel

    return PeftModel.from_pretrained(policy, str(adapter)).eval()
