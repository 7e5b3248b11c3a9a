"""Loading a policy, its tokenizer and a run's adapter, in the same way for every stage."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import has_file

from mapft.config import TUNED, Dtype, ModelConfig, Quantization
from mapft.playground.paths import existing_or_hub
from mapft.utils.consistency import agree, check_log_probs, difference, own_log_probs
from mapft.utils.device import device, whole_weights
from mapft.utils.errors import UserError, working_on
from mapft.utils.forward import has_adapter_layers
from mapft.utils.weights import check_vocabulary, check_weights

START = "default"  # the name that PEFT gives to the adapter of model.adapter; TRL trains this one


def load_tokenizer(model: ModelConfig) -> PreTrainedTokenizerBase:
    """The policy's tokenizer, with padding and truncation on the left: the adapter's, where it comes with one."""
    source, path, revision = "model.path", model.path, model.revision
    if model.adapter and _has_tokenizer(model.adapter):
        source, path, revision = "model.adapter", model.adapter, None
    options: dict[str, Any] = {"revision": revision, "trust_remote_code": model.trust_remote_code}
    folder = existing_or_hub(path, source)
    with working_on(f"The tokenizer of {source}={path}", "cannot be loaded"):
        tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left", truncation_side="left", **options)
    if not tokenizer("Why is the sky blue?")["input_ids"]:  # transformers returns one for a folder without a tokenizer
        raise UserError(f"The tokenizer of {source}={path} cannot be loaded: it returns no tokens for a text.")
    if tokenizer.eos_token_id is None:
        raise UserError(f"The tokenizer of {path} has no EOS token, so no response can end; add one to it.")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _has_tokenizer(adapter: str) -> bool:
    """Whether the folder or Hub id of an adapter has a tokenizer."""
    path = existing_or_hub(adapter, "model.adapter")
    with working_on(f"model.adapter={adapter}", "cannot be loaded as an adapter of the model"):
        return has_file(path, "tokenizer_config.json")


def load_policy(model: ModelConfig) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Base policy p0 on the device of this process, and its tokenizer.

    The model's own generation defaults (top_k, repetition penalty, ...) are removed, except its special tokens.
    UserError for a model that cannot be loaded, or whose log-probabilities are not unique (`check_log_probs`).
    """
    path = existing_or_hub(model.path, "model.path")
    options: dict[str, Any] = {"revision": model.revision, "trust_remote_code": model.trust_remote_code}
    dtype = policy_dtype(model)
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
    if has_adapter_layers(policy):
        base = policy.name_or_path
        raise UserError(
            f"model.path={model.path} is an adapter of {base}, which training would drop; set model.path={base} and "
            f"model.adapter={model.path}."
        )
    check_weights(policy, loading, source, "causal language model")
    tokenizer = load_tokenizer(model)
    special = {"its EOS token": tokenizer.eos_token_id, "its padding token": tokenizer.pad_token_id}
    check_vocabulary(special, policy, source)
    clear_generation_defaults(policy, tokenizer)
    check_log_probs(policy)
    if model.adapter is not None:
        adapter = existing_or_hub(model.adapter, "model.adapter")
        policy = _with_adapter(policy, adapter, f"model.adapter={model.adapter}", START, is_trainable=True)
        policy.peft_config[START].base_model_name_or_path = path
    return policy.eval(), tokenizer


def policy_dtype(model: ModelConfig) -> str:
    """torch's name of the precision of the frozen base on this machine."""
    if model.dtype is not Dtype.auto:
        return model.dtype.value
    return "bfloat16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "float32"


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
    return _with_adapter(policy, str(adapter), str(adapter), TUNED, is_trainable=False).eval()


def _with_adapter(policy: Any, adapter: str, source: str, name: str, *, is_trainable: bool) -> Any:
    """The policy with an adapter active; UserError where it does not fit, or changes the policy without it.

    source: what messages call it.
    """
    base_N = own_log_probs(policy)
    with working_on(source, "cannot be loaded as an adapter of the model"), warnings.catch_warnings():
        warnings.filterwarnings("error", "Found missing adapter keys", UserWarning)  # they would stay random or 0
        if isinstance(policy, PeftModel):
            if missing := policy.load_adapter(adapter, name, is_trainable=is_trainable).missing_keys:
                raise ValueError(f"Found missing adapter keys while loading the checkpoint: {missing}.")
            policy.set_adapter(name)
        else:
            policy = PeftModel.from_pretrained(policy, adapter, name, is_trainable=is_trainable)
    if policy.peft_config[name].is_prompt_learning:
        raise UserError(f"{source} adds tokens before the prompt; give an adapter of the layers, such as LoRA.")
    with base_policy_active(policy):
        without_N = own_log_probs(policy)
    if not agree(base_N, without_N, policy):
        raise UserError(
            f"{source} changes the weights of its base (as init_lora_weights=pissa or bias=all does): without it, "
            f"log-probabilities differ by {difference(base_N, without_N):.2g} nats per token from those of the model, "
            "so no KL to p0 can be measured; convert it to plain LoRA, or merge it into its base and set model.path."
        )
    check_log_probs(policy)
    return policy


@contextmanager
def base_policy_active(tuned: Any) -> Iterator[Any]:
    """Inside, the active adapter is inactive; the adapter of model.adapter is active if another one was."""
    name = tuned.active_adapter
    if name == START or START not in tuned.peft_config:
        with tuned.disable_adapter():
            yield tuned
        return
    tuned.set_adapter(START)
    try:
        yield tuned
    finally:
        tuned.set_adapter(name)
