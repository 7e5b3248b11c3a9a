"""Responses sampled from a policy.

Legend: N responses, T tokens.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import torch
from peft import PeftModel
from transformers import GenerationConfig, PreTrainedTokenizerBase

from mapft.config import SamplingConfig
from mapft.sampling.engines import RejectionSampler
from mapft.sampling.models import START, base_policy_active
from mapft.sampling.tokens import TokenizedPrompts
from mapft.utils.errors import working_on
from mapft.utils.forward import own_head, response_log_probs
from mapft.utils.oom import OomRetry
from mapft.utils.seeds import derive_seed
from mapft.utils.text import response_texts

ENGINE_LOG_RATIO = "engine_log_ratio"  # the column with log pi/mu of responses that an engine proposed
PASS_ROWS = 32  # of a pass of `log_prob`
LOGITS_BYTES = 2**28  # of the logits in one pass of `log_prob`, which holds about four copies of them

# Of prompts: the tokens of a response to each, and further columns
Sample = Callable[[list[list[int]]], tuple[list[list[int]], dict[str, list[Any]]]]


def generate(
    policy: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: TokenizedPrompts,
    sampling: SamplingConfig,
    samples_per_prompt: int,
    seed: int,
    on_batch: Callable[[int, int], None] = lambda done, total: None,
    measure_kl: bool = False,
    engine: RejectionSampler | None = None,
) -> pd.DataFrame:
    """samples_per_prompt responses to every prompt: columns prompt_id, prompt, response, tokens, finished (by EOS), and
    the ids of the tokens, prompt_token_ids and response_token_ids.

    measure_kl: for a policy with an adapter, adds the column kl = log pi(y|x) - log p0(y|x) in nats, whose mean is an
    unbiased estimate of KL(pi||p0). Prompts of similar length share a batch, and every batch has its own seed, so the
    responses depend on sampling.batch_size but not on earlier batches. sampling.micro_batch_size of a batch are
    generated at a time, fewer where they exceed the memory. on_batch: called with the number of responses so far and in
    total. engine: generates in place of transformers; adds the column engine_log_ratio = log pi/mu in nats. UserError
    where its bound on the error of a level is too large.
    """
    order = sorted(range(len(prompts.ids)), key=lambda p: len(prompts.ids[p]))
    prompt_numbers = [p for p in order for _ in range(samples_per_prompt)]
    if engine is None:
        sample = _with_transformers(policy, tokenizer, sampling)
    else:
        sample = _with_engine(policy, tokenizer, sampling, engine)
    rows: list[dict[str, Any]] = []
    in_parts = OomRetry(sampling.micro_batch_size)

    def generate_rows(batch: Sequence[int]) -> list[dict[str, Any]]:
        return _rows(policy, tokenizer, prompts, batch, sample, sampling.temperature if measure_kl else None)

    def report(done: int) -> None:
        on_batch(len(rows) + done, len(prompt_numbers))

    report(0)
    for start in range(0, len(prompt_numbers), sampling.batch_size):
        batch = prompt_numbers[start : start + sampling.batch_size]
        torch.manual_seed(derive_seed(seed, "draw", start))
        # An engine decides by itself how many it generates at a time, and derives the seed of every row from one.
        for part in in_parts(batch, generate_rows, report) if engine is None else [generate_rows(batch)]:
            rows.extend(part)
            if engine is not None:
                report(0)
    return pd.DataFrame(rows).sort_values("prompt_id", kind="stable", ignore_index=True)


def _rows(
    policy: Any,
    tokenizer: Any,
    prompts: TokenizedPrompts,
    batch: Sequence[int],
    sample: Sample,
    kl_temperature: float | None,
) -> list[dict[str, Any]]:
    """The rows of a batch of prompt numbers, with the KL at this temperature where it is given."""
    prompt_ids, eos_ids = [prompts.ids[p] for p in batch], policy.generation_config.eos_token_id
    response_ids, columns = sample(prompt_ids)
    columns["response"] = response_texts(tokenizer, prompt_ids, response_ids)
    if kl_temperature is not None:
        tokens = _padded(tokenizer, prompt_ids, response_ids, policy.device)
        columns["kl"] = _log_ratio(policy, tokens, kl_temperature).tolist()
    return [
        {
            "prompt_id": p,
            "prompt": prompts.texts[p],
            "tokens": len(ids),
            "finished": ids[-1] in eos_ids,
            "prompt_token_ids": prompts.ids[p],
            "response_token_ids": ids,
            **{name: column[number] for name, column in columns.items()},
        }
        for number, (p, ids) in enumerate(zip(batch, response_ids, strict=True))
    ]


def _with_transformers(policy: Any, tokenizer: Any, sampling: SamplingConfig) -> Sample:
    config = _generation_config(sampling)

    def sample(prompt_ids: list[list[int]]) -> tuple[list[list[int]], dict[str, list[Any]]]:
        padded = tokenizer.pad({"input_ids": prompt_ids}, padding_side="left", return_tensors="pt").to(policy.device)
        with torch.inference_mode(), working_on(f"model.path={policy.name_or_path}", "cannot generate"):
            sequences = policy.generate(**padded, generation_config=config, synced_gpus=False)  # processes do not wait
        responses_NT = sequences[:, padded["input_ids"].size(1) :]
        is_eos_NT = torch.isin(responses_NT, torch.tensor(policy.generation_config.eos_token_id, device=policy.device))
        lengths_N = torch.where(is_eos_NT.any(1), is_eos_NT.int().argmax(1) + 1, is_eos_NT.size(1)).tolist()
        return [ids[:length] for ids, length in zip(responses_NT.tolist(), lengths_N, strict=True)], {}

    return sample


def _with_engine(policy: Any, tokenizer: Any, sampling: SamplingConfig, engine: RejectionSampler) -> Sample:
    """The engine has the active adapter of the policy, or its base model alone."""
    if isinstance(policy, PeftModel):
        name = str(policy.active_adapter)
        with TemporaryDirectory() as folder:
            policy.save_pretrained(folder, selected_adapters=[name], save_embedding_layers=False)
            engine.engine.load(Path(folder) if name == START else Path(folder) / name)
    else:
        engine.engine.load(None)

    def policy_pass(prompt_ids: list[list[int]], response_ids: list[list[int]]) -> tuple[list[float], list[None]]:
        tokens = _padded(tokenizer, prompt_ids, response_ids, policy.device)
        logp = log_prob(policy, tokens, rows=sampling.micro_batch_size or PASS_ROWS).tolist()
        return logp, [None] * len(logp)

    def sample(prompt_ids: list[list[int]]) -> tuple[list[list[int]], dict[str, list[Any]]]:
        responses = engine.sample(
            policy_pass,
            prompt_ids,
            eos_ids=policy.generation_config.eos_token_id,
            max_new_tokens=sampling.max_new_tokens,
            seed=int(torch.randint(2**31, ())),
        )
        log_ratios = [each.log_ratio for each in responses]
        engine.judge(log_ratios)
        return [each.ids for each in responses], {ENGINE_LOG_RATIO: log_ratios}

    return sample


def _padded(
    tokenizer: Any, prompt_ids: list[list[int]], response_ids: list[list[int]], device: torch.device
) -> dict[str, torch.Tensor]:
    """See `response_log_probs`."""
    prompts = tokenizer.pad({"input_ids": prompt_ids}, padding_side="left", return_tensors="pt").to(device)
    responses = tokenizer.pad({"input_ids": response_ids}, padding_side="right", return_tensors="pt").to(device)
    return {
        "prompt_ids": prompts["input_ids"],
        "prompt_mask": prompts["attention_mask"],
        "completion_ids": responses["input_ids"],
        "mask": responses["attention_mask"],
    }


def _generation_config(sampling: SamplingConfig) -> GenerationConfig:
    return GenerationConfig(
        do_sample=True,
        max_new_tokens=sampling.max_new_tokens,
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        repetition_penalty=1.0,
    )


def _log_ratio(policy: Any, tokens: dict[str, torch.Tensor], temperature: float) -> torch.Tensor:
    """log pi(y|x) - log p0(y|x), (N,), of a policy with an adapter; top_k and top_p are ignored."""
    tuned_N = log_prob(policy, tokens, temperature)
    with base_policy_active(policy):
        return tuned_N - log_prob(policy, tokens, temperature)


@torch.inference_mode()
def log_prob(
    policy: Any, tokens: dict[str, torch.Tensor], temperature: float = 1.0, rows: int = PASS_ROWS
) -> torch.Tensor:
    """sum_t log softmax(logits_t / temperature)[y_t] over the response tokens, (N,), in fp32.

    tokens: see `response_log_probs`. A pass has at most `rows` rows, PASS_ROWS and LOGITS_BYTES, but one row at least.
    """
    row_bytes = 4 * tokens["mask"].size(1) * policy.config.get_text_config().vocab_size
    head, parts = partial(own_head, temperature=temperature), []
    size = max(1, min(rows, PASS_ROWS, LOGITS_BYTES // row_bytes))
    for numbers in torch.arange(len(tokens["mask"])).split(size):
        part = {name: array[numbers] for name, array in tokens.items()}
        parts.append(response_log_probs(policy, part, head)[0].sum(1))
    return torch.cat(parts)
