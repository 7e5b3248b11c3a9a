"""Responses sampled from a policy.

Legend: N responses, T tokens.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pandas as pd
import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase

from mapft.config import SamplingConfig
from mapft.sampling.models import base_policy_active
from mapft.sampling.tokens import TokenizedPrompts
from mapft.utils.errors import working_on
from mapft.utils.forward import own_head, response_log_probs
from mapft.utils.oom import OomRetry
from mapft.utils.seeds import derive_seed
from mapft.utils.text import response_texts

LOGITS_BYTES = 2**28  # of the logits in one pass of `log_prob`, which holds about four copies of them


def generate(
    policy: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: TokenizedPrompts,
    sampling: SamplingConfig,
    samples_per_prompt: int,
    seed: int,
    on_batch: Callable[[int, int], None] = lambda done, total: None,
    measure_kl: bool = False,
) -> pd.DataFrame:
    """samples_per_prompt responses to every prompt: columns prompt_id, prompt, response, tokens, finished (by EOS), and
    the ids of the tokens, prompt_token_ids and response_token_ids.

    measure_kl: for a policy with an adapter, adds the column kl = log pi(y|x) - log p0(y|x) in nats, whose mean is an
    unbiased estimate of KL(pi||p0). Prompts of similar length share a batch, and every batch has its own seed, so the
    responses depend on sampling.batch_size but not on earlier batches. sampling.micro_batch_size of a batch are
    generated at a time, fewer where they exceed the memory. on_batch: called with the number of responses so far and in
    total.
    """
    order = sorted(range(len(prompts.ids)), key=lambda p: len(prompts.ids[p]))
    prompt_numbers = [p for p in order for _ in range(samples_per_prompt)]
    config = _generation_config(sampling)
    rows: list[dict[str, Any]] = []
    in_parts = OomRetry(sampling.micro_batch_size)

    def generate_rows(batch: Sequence[int]) -> list[dict[str, Any]]:
        return _generate_batch(policy, tokenizer, prompts, batch, config, measure_kl)

    def report(done: int) -> None:
        on_batch(len(rows) + done, len(prompt_numbers))

    report(0)
    for start in range(0, len(prompt_numbers), sampling.batch_size):
        batch = prompt_numbers[start : start + sampling.batch_size]
        torch.manual_seed(derive_seed(seed, "draw", start))
        for part in in_parts(batch, generate_rows, report):
            rows.extend(part)
    return pd.DataFrame(rows).sort_values("prompt_id", kind="stable", ignore_index=True)


def _generation_config(sampling: SamplingConfig) -> GenerationConfig:
    return GenerationConfig(
        do_sample=True,
        max_new_tokens=sampling.max_new_tokens,
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        repetition_penalty=1.0,
    )


def _generate_batch(
    policy: Any,
    tokenizer: Any,
    prompts: TokenizedPrompts,
    batch: Sequence[int],
    config: GenerationConfig,
    measure_kl: bool,
) -> list[dict[str, Any]]:
    padded = tokenizer.pad({"input_ids": [prompts.ids[p] for p in batch]}, padding_side="left", return_tensors="pt")
    padded = padded.to(policy.device)
    width = padded["input_ids"].size(1)
    with torch.inference_mode(), working_on(f"model.path={policy.name_or_path}", "cannot generate"):
        sequences = policy.generate(**padded, generation_config=config, synced_gpus=False)  # processes do not wait
    eos_ids = torch.tensor(policy.generation_config.eos_token_id, device=sequences.device)
    is_eos_NT = torch.isin(sequences[:, width:], eos_ids)
    finished_N = is_eos_NT.any(1)
    lengths_N = torch.where(finished_N, is_eos_NT.int().argmax(1) + 1, is_eos_NT.size(1))
    rows = [
        {"prompt_id": p, "prompt": prompts.texts[p], "tokens": length, "finished": finished}
        for p, length, finished in zip(batch, lengths_N.tolist(), finished_N.tolist(), strict=True)
    ]
    ids = [sequence[width : width + row["tokens"]] for sequence, row in zip(sequences, rows, strict=True)]
    for row, response in zip(rows, response_texts(tokenizer, [prompts.ids[p] for p in batch], ids), strict=True):
        row["response"] = response
    for row, response_ids in zip(rows, ids, strict=True):
        row["prompt_token_ids"], row["response_token_ids"] = prompts.ids[row["prompt_id"]], response_ids.tolist()
    if measure_kl:
        mask_NT = torch.arange(is_eos_NT.size(1), device=lengths_N.device) < lengths_N[:, None]
        tokens = {
            "prompt_ids": padded["input_ids"],
            "prompt_mask": padded["attention_mask"],
            "completion_ids": sequences[:, width:],
            "mask": mask_NT.long(),
        }
        log_ratio_N = _log_ratio(policy, tokens, config.temperature)
        for row, log_ratio in zip(rows, log_ratio_N.tolist(), strict=True):
            row["kl"] = log_ratio
    return rows


def _log_ratio(policy: Any, tokens: dict[str, torch.Tensor], temperature: float) -> torch.Tensor:
    """log pi(y|x) - log p0(y|x), (N,), of a policy with an adapter; top_k and top_p are ignored."""
    tuned_N = log_prob(policy, tokens, temperature)
    with base_policy_active(policy):
        return tuned_N - log_prob(policy, tokens, temperature)


@torch.inference_mode()
def log_prob(policy: Any, tokens: dict[str, torch.Tensor], temperature: float = 1.0) -> torch.Tensor:
    """sum_t log softmax(logits_t / temperature)[y_t] over the response tokens, (N,), in fp32.

    tokens: see `response_log_probs`. A pass has at most 32 rows and LOGITS_BYTES, but one row at least.
    """
    row_bytes = 4 * tokens["mask"].size(1) * policy.config.get_text_config().vocab_size
    head, parts = partial(own_head, temperature=temperature), []
    for rows in torch.arange(len(tokens["mask"])).split(max(1, min(32, LOGITS_BYTES // row_bytes))):
        part = {name: array[rows] for name, array in tokens.items()}
        parts.append(response_log_probs(policy, part, head)[0].sum(1))
    return torch.cat(parts)
