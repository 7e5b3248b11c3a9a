"""Where a model runs, in how much memory, what it is given in every pass, and how what it says is read."""

import gc
import inspect
import os
import resource
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def device() -> torch.device:
    """The GPU of this process (by LOCAL_RANK, before accelerate sets the current one) if there is one, else the CPU."""
    return (
        torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        if torch.cuda.is_available()
        else torch.device("cpu")
    )


@contextmanager
def whole_weights() -> Iterator[None]:
    """Inside, a model is loaded whole by each process, also while DeepSpeed ZeRO-3 shards the policy.

    From the moment that ZeRO-3 is set up, transformers would shard every model that it loads: a reward model too,
    which one process may score with alone.
    """
    from transformers.integrations import deepspeed

    zero3 = deepspeed._hf_deepspeed_config_weak_ref
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = zero3


def give_back_memory() -> None:
    """Free models that nothing refers to any more, cycles included, before the next one is loaded."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def peak_gb(device: torch.device) -> float:
    """Most memory held so far, 10^9 bytes: the device's, or this process's resident set on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss begins with what the process that started this one held
        return int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024 / 1e9
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kibibytes elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def model_inputs(model: Any, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
    """input_ids and attention_mask, with position ids counted from the mask where the architecture takes them.

    With padding on the left, absolute positions (GPT-2) counted from column 0 would change every log-probability.
    model: the causal model itself, without wrappers.
    """
    inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
    if "position_ids" in inspect.signature(model.forward).parameters:
        inputs["position_ids"] = (attention_mask.cumsum(-1) - 1).clamp(min=0)
    return inputs


def response_texts(tokenizer: Any, prompt_ids: Sequence[list[int]], response_ids: Sequence[Any]) -> list[str]:
    """The responses as they stand behind their prompts, special tokens left out.

    Decoded alone, a response loses its first space under tokenizers (Llama's) that strip the beginning of a text; so
    each is decoded behind the last token of its prompt.
    """
    last = [list(ids[-1:]) for ids in prompt_ids]
    whole = [[*before, *map(int, ids)] for before, ids in zip(last, response_ids, strict=True)]
    before, both, alone = (
        tokenizer.batch_decode(rows, skip_special_tokens=True) for rows in (last, whole, list(response_ids))
    )
    return [
        text.removeprefix(start) if text.startswith(start) else own
        for start, text, own in zip(before, both, alone, strict=True)
    ]
