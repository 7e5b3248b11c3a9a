"""Drawing responses from a policy.

Shapes: N responses, T tokens.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase

from mapft.config import DataConfig, SamplingConfig, TooLong
from mapft.errors import UserError
from mapft.forward import model_inputs, response_texts
from mapft.halving import Halving
from mapft.sampling.models import base_policy
from mapft.sampling.prompts import Prompt, text_of
from mapft.seeding import derive_seed


@dataclass(frozen=True)
class Tokenized:
    """Prompts as token ids; `texts` is what scores read."""

    ids: list[list[int]]
    texts: list[str]


def tokenize(prompts: Sequence[Prompt], tokenizer: PreTrainedTokenizerBase) -> Tokenized:
    """Texts as they are, messages through the chat template with the generation prompt."""
    if any(not isinstance(prompt, str) for prompt in prompts) and not tokenizer.chat_template:
        raise UserError(
            f"The prompts are messages (data.as_chat?), and the tokenizer of {tokenizer.name_or_path} has no chat "
            "template; give prompts as texts, or a model that was trained to chat."
        )
    ids = []
    for prompt in prompts:
        if isinstance(prompt, str):
            ids.append(tokenizer(prompt)["input_ids"])
        else:
            ids.append(tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=True)["input_ids"])
    return Tokenized(ids, [text_of(prompt) for prompt in prompts])


def shortened(
    prompts: Sequence[Prompt], tokenizer: PreTrainedTokenizerBase, data: DataConfig
) -> tuple[list[Prompt], int]:
    """The prompts within data.max_prompt_tokens, the longer ones treated as data.too_long says, and how many those are.

    A text that is cut keeps its last tokens, so that the question before the answer stays; messages are left out.
    """
    limit, kept, long = data.max_prompt_tokens, [], 0
    if data.too_long is TooLong.stop:
        return list(prompts), 0
    for prompt, ids in zip(prompts, tokenize(prompts, tokenizer).ids, strict=True):
        if len(ids) <= limit:
            kept.append(prompt)
            continue
        long += 1
        if data.too_long is TooLong.cut and isinstance(prompt, str):
            kept.append(_cut(prompt, tokenizer, limit))
    return kept, long


def _cut(prompt: str, tokenizer: PreTrainedTokenizerBase, limit: int) -> str:
    for keep in range(limit, 0, -1):  # the shorter text may split into other tokens, and more of them
        text = tokenizer.decode(tokenizer(prompt, add_special_tokens=False)["input_ids"][-keep:])
        if len(tokenizer(text)["input_ids"]) <= limit:
            return text
    return prompt[-1:]


def refuse_long(prompts: Tokenized, policy: Any, data: DataConfig, sampling: SamplingConfig) -> None:
    """Raises UserError for a prompt over data.max_prompt_tokens, or one that leaves no room for a whole response."""
    context = getattr(policy.config.get_text_config(), "max_position_embeddings", None)
    room = data.max_prompt_tokens if context is None else context - sampling.max_new_tokens
    for number, ids in enumerate(prompts.ids, 1):
        if len(ids) > min(room, data.max_prompt_tokens):
            which = f"the {context} positions of the model less sampling.max_new_tokens={sampling.max_new_tokens}"
            limit = f"data.max_prompt_tokens={data.max_prompt_tokens}" if data.max_prompt_tokens <= room else which
            raise UserError(
                f"A prompt of {len(ids)} tokens is longer than {limit}: {prompts.texts[number - 1][:60]!r}; "
                "shorten or drop it, or change that setting."
            )


def draw(
    policy: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Tokenized,
    sampling: SamplingConfig,
    samples_per_prompt: int,
    seed: int,
    on_batch: Callable[[int, int], None] = lambda done, total: None,
    measure_kl: bool = False,
) -> pd.DataFrame:
    """samples_per_prompt responses to every prompt: columns prompt_id, prompt, response, tokens, finished (by EOS).

    With measure_kl a column kl = log pi(y|x) - log p0(y|x), nats, of a policy with an adapter: its mean is an unbiased
    estimate of KL(pi||p0). Batches of similar length draw from their own seed, so the draws depend on
    sampling.batch_size but not on what was drawn before. A batch that does not fit into memory is drawn in parts.
    """
    order = sorted(range(len(prompts.ids)), key=lambda p: len(prompts.ids[p]))
    wanted = [p for p in order for _ in range(samples_per_prompt)]
    config = _generation_config(sampling)
    rows: list[dict[str, Any]] = []
    in_parts = Halving()

    def draw_some(batch: Sequence[int]) -> list[dict[str, Any]]:
        return _draw_batch(policy, tokenizer, prompts, batch, config, measure_kl)

    for start in range(0, len(wanted), sampling.batch_size):
        batch = wanted[start : start + sampling.batch_size]
        torch.manual_seed(derive_seed(seed, "draw", start))
        for part in in_parts(batch, draw_some):
            rows.extend(part)
        on_batch(len(rows), len(wanted))
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


def _draw_batch(
    policy: Any, tokenizer: Any, prompts: Tokenized, batch: Sequence[int], config: GenerationConfig, measure_kl: bool
) -> list[dict[str, Any]]:
    padded = tokenizer.pad({"input_ids": [prompts.ids[p] for p in batch]}, padding_side="left", return_tensors="pt")
    padded = padded.to(policy.device)
    width = padded["input_ids"].size(1)
    with torch.inference_mode():
        sequences = policy.generate(**padded, generation_config=config, synced_gpus=False)  # one process draws alone
    ends = torch.tensor(policy.generation_config.eos_token_id, device=sequences.device)
    ended = torch.isin(sequences[:, width:], ends)
    lengths = torch.where(ended.any(1), ended.int().argmax(1) + 1, ended.size(1))
    rows = [
        {"prompt_id": p, "prompt": prompts.texts[p], "tokens": length, "finished": finished}
        for p, length, finished in zip(batch, lengths.tolist(), ended.any(1).tolist(), strict=True)
    ]
    ids = [sequence[width : width + row["tokens"]] for sequence, row in zip(sequences, rows, strict=True)]
    for row, response in zip(rows, response_texts(tokenizer, [prompts.ids[p] for p in batch], ids), strict=True):
        row["response"] = response
    if measure_kl:
        mask = torch.arange(ended.size(1), device=lengths.device) < lengths[:, None]
        attention = torch.cat([padded["attention_mask"], mask.long()], dim=1)
        trained = log_prob(policy, sequences, attention, mask, config.temperature)
        with base_policy(policy):
            base = log_prob(policy, sequences, attention, mask, config.temperature)
        for row, kl in zip(rows, (trained - base).tolist(), strict=True):
            row["kl"] = kl
    return rows


@torch.inference_mode()
def log_prob(
    policy: Any, sequences: torch.Tensor, attention: torch.Tensor, mask_NT: torch.Tensor, temperature: float = 1.0
) -> torch.Tensor:
    """log p(y|x) as sampled at this temperature, summed over the response tokens, (N,), fp32 log-softmax.

    top_k and top_p are not taken into account. 32 rows at a time bound the logits.
    """
    length = mask_NT.size(1)
    parts = []
    for rows in torch.arange(len(sequences), device=sequences.device).split(32):
        inputs = model_inputs(policy.get_base_model(), sequences[rows], attention[rows])
        logits = policy(**inputs, logits_to_keep=length + 1).logits[:, :-1]
        logp = (logits.float() / temperature).log_softmax(-1).gather(-1, sequences[rows, -length:, None]).squeeze(-1)
        parts.append((logp * mask_NT[rows]).sum(1))
    return torch.cat(parts)
