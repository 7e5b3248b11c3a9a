"""Loading a policy, its tokenizer and a run's adapter, in the same way for every stage."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from mapft.config import TUNED, Dtype, ModelConfig, Quantization
from mapft.playground.paths import existing_or_hub
from mapft.utils.device import device, whole_weights
from mapft.utils.errors import UserError, working_on
from mapft.utils.weights import check_vocabulary, check_weights


def load_tokenizer(model: ModelConfig) -> PreTrainedTokenizerBase:
    """The policy's tokenizer, with padding and truncation on the left."""
    path = existing_or_hub(model.path, "model.path")
    options: dict[str, Any] = {"revision": model.revision, "trust_remote_code": model.trust_remote_code}
    with working_on(f"The tokenizer of model.path={model.path}", "cannot be loaded"):
        tokenizer = AutoTokenizer.from_pretrained(path, padding_side="left", truncation_side="left", **options)
    if not tokenizer("Why is the sky blue?")["input_ids"]:  # transformers returns one for a folder without a tokenizer
        raise UserError(f"The tokenizer of model.path={model.path} cannot be loaded: it returns no tokens for a text.")
    if tokenizer.eos_token_id is None:
        raise UserError(f"The tokenizer of {model.path} has no EOS token, so no response can end; add one to it.")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_policy(model: ModelConfig) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Base policy p0 on the device of this process, and its tokenizer.

    The model's own generation defaults (top_k, repetition penalty, ...) are removed, except its special tokens.
    """
    path = existing_or_hub(model.path, "model.path")
    options: dict[str, Any] = {"revision": model.revision, "trust_remote_code": model.trust_remote_code}
    bfloat16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    dtype = ("bfloat16" if bfloat16 else "float32") if model.dtype == Dtype.auto else model.dtype.value
    source = f"model.path={model.path}"
    try:
        with whole_weights(), working_on(source, "cannot be loaded as a causal language model"):
            policy, loading = AutoModelForCausalLM.from_pretrained(
                path,
                dtype=getattr(torch, dtype),
                attn_implementation=model.attn_implementation,
                quantization_config=_quantization(model, getattr(torch, dtype)),
                device_map={"": device()},
                use_safetensors=None if model.allow_pickle else True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # check_weights names them
                **options,
            )
    except UserError as error:
        if model.quantization is Quantization.none or not isinstance(error.__cause__, ImportError):
            raise
        raise UserError(
            f"model.quantization={model.quantization.value} needs bitsandbytes; pip install 'mapft[quantization]'."
        ) from error
    check_weights(policy, loading, source, "causal language model")
    tokenizer = load_tokenizer(model)
    special = {"its EOS token": tokenizer.eos_token_id, "its padding token": tokenizer.pad_token_id}
    check_vocabulary(special, policy, source)
    clear_generation_defaults(policy, tokenizer)
    if model.adapter is not None:
        policy = _with_trained_adapter(policy, existing_or_hub(model.adapter, "model.adapter"))
    return policy.eval(), tokenizer


def _with_trained_adapter(policy: PreTrainedModel, adapter: str) -> Any:
    from peft import PeftModel

    with working_on(f"model.adapter={adapter}", "cannot be loaded as an adapter of the model"):
        return PeftModel.from_pretrained(policy, adapter, is_trainable=True)


def _quantization(model: ModelConfig, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    if model.quantization is Quantization.none:
        return None
    four_bits = model.quantization is Quantization.nf4
    return BitsAndBytesConfig(
        load_in_4bit=four_bits, load_in_8bit=not four_bits, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
    )


def clear_generation_defaults(policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Reduce the model's generation_config to its special tokens, with the tokenizer's EOS among the EOS tokens."""
    defaults = policy.generation_config
    eos_ids = defaults.eos_token_id if defaults is not None and defaults.eos_token_id is not None else []
    eos_ids = [eos_ids] if isinstance(eos_ids, int) else list(eos_ids)
    policy.generation_config = GenerationConfig(
        bos_token_id=defaults.bos_token_id if defaults is not None else None,
        eos_token_id=eos_ids if tokenizer.eos_token_id in eos_ids else [tokenizer.eos_token_id, *eos_ids],
        pad_token_id=tokenizer.pad_token_id,
    )


def load_adapter(policy: Any, adapter: Path) -> Any:
    """The policy with a run's adapter active, under the name TUNED; `base_policy_active` gives p0."""
    from peft import PeftModel

    with working_on(str(adapter), "cannot be loaded as an adapter of the model"):
        if isinstance(policy, PeftModel):
            policy.load_adapter(str(adapter), TUNED)
            policy.set_adapter(TUNED)
            return policy.eval()
        return PeftModel.from_pretrained(policy, str(adapter), TUNED).eval()


@contextmanager
def base_policy_active(tuned: Any) -> Iterator[Any]:
    """Inside, the policy is p0: the run's adapter is inactive, and the adapter of model.adapter, if any, is active."""
    if "default" not in tuned.peft_config:
        with tuned.disable_adapter():
            yield tuned
        return
    tuned.set_adapter("default")
    try:
        yield tuned
    finally:
        tuned.set_adapter(TUNED)
