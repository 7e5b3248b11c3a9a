"""Loading a policy and its tokenizer, the same way for every stage."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from mapft.config import Dtype, ModelConfig, Quantization
from mapft.errors import UserError
from mapft.forward import device, whole_weights
from mapft.paths import existing_or_hub

TUNED = "tuned"  # name of a run's adapter


def load_tokenizer(model: ModelConfig) -> PreTrainedTokenizerBase:
    """The policy's tokenizer, padding on the left."""
    path = existing_or_hub(model.path, "model.path")
    options: dict[str, Any] = {"revision": model.revision, "trust_remote_code": model.trust_remote_code}
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, padding_side="left", truncation_side="left", **options)
    except (OSError, ValueError) as error:
        raise UserError(f"model.path={model.path} holds no tokenizer that loads: {error}") from error
    if not tokenizer("Why is the sky blue?")["input_ids"]:  # what transformers makes of a folder without a tokenizer
        raise UserError(f"model.path={model.path} holds no tokenizer that loads: a text has no tokens.")
    if tokenizer.eos_token_id is None:
        raise UserError(f"The tokenizer of {model.path} has no EOS token, so no response could end; add one to it.")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_policy(model: ModelConfig) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Base policy p0 on this process's device, and its tokenizer padding on the left.

    The model's own decoding defaults (top_k, repetition penalty, ...) are dropped; only its special tokens stay.
    """
    path = existing_or_hub(model.path, "model.path")
    options: dict[str, Any] = {"revision": model.revision, "trust_remote_code": model.trust_remote_code}
    half = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    dtype = ("bfloat16" if half else "float32") if model.dtype == Dtype.auto else model.dtype.value
    try:
        with whole_weights():
            policy, loading = AutoModelForCausalLM.from_pretrained(
                path,
                dtype=getattr(torch, dtype),
                attn_implementation=model.attn_implementation,
                quantization_config=_quantization(model, getattr(torch, dtype)),
                device_map={"": device()},
                use_safetensors=None if model.allow_pickle else True,
                output_loading_info=True,
                **options,
            )
    except ImportError as error:
        if model.quantization is Quantization.none:
            raise UserError(f"model.path={model.path} needs a package that is not here: {error}") from error
        raise UserError(
            f"model.quantization={model.quantization.value} needs bitsandbytes; pip install 'mapft[quantization]'."
        ) from error
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"model.path={model.path} holds no causal language model that loads: {error}") from error
    if loading["missing_keys"]:
        raise UserError(
            f"model.path={model.path} lacks weights ({sorted(loading['missing_keys'])[0]} and "
            f"{len(loading['missing_keys']) - 1} more), which would be random; give a causal language model."
        )
    tokenizer = load_tokenizer(model)
    neutralize_decoding(policy, tokenizer)
    if model.adapter is not None:
        policy = _with_trained_adapter(policy, existing_or_hub(model.adapter, "model.adapter"))
    return policy.eval(), tokenizer


def _with_trained_adapter(policy: PreTrainedModel, adapter: str) -> Any:
    from peft import PeftModel

    try:
        return PeftModel.from_pretrained(policy, adapter, is_trainable=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(f"model.adapter={adapter} holds no adapter that fits the model: {error}") from error


def _quantization(model: ModelConfig, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    if model.quantization is Quantization.none:
        return None
    four = model.quantization is Quantization.nf4
    return BitsAndBytesConfig(
        load_in_4bit=four, load_in_8bit=not four, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
    )


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


def with_adapter(policy: Any, adapter: Path) -> Any:
    """The policy with the adapter of a run switched on; `base_policy` gives p0 back."""
    from peft import PeftModel

    try:
        if isinstance(policy, PeftModel):
            policy.load_adapter(str(adapter), TUNED)
            policy.set_adapter(TUNED)
            return policy.eval()
        return PeftModel.from_pretrained(policy, str(adapter), TUNED).eval()
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{adapter} holds no adapter that fits the model: {error}") from error


@contextmanager
def base_policy(tuned: Any) -> Iterator[Any]:
    """Inside, p0: the run's adapter is off, and the one that p0 came with, where it did, is on."""
    if "default" not in tuned.peft_config:
        with tuned.disable_adapter():
            yield tuned
        return
    tuned.set_adapter("default")
    try:
        yield tuned
    finally:
        tuned.set_adapter(TUNED)
