"""Whether a model's log-probabilities are the same however they are computed, checked on two short sequences.

The truth is log_softmax of the model's own logits of one sequence at a time, without padding. Sampling, training and
evaluation pad on the left, decode with a cache, and read the logits of responses alone. Where one of these gives other
numbers, the policy that is trained is not the one that is sampled.

Shapes: N tokens of both sequences.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from mapft.utils.errors import UserError, working_on
from mapft.utils.forward import Head, all_fp32, causal_model, own_head, response_log_probs
from mapft.utils.sampled_log_probs import record_log_probs

PROMPTS, RESPONSE = (3, 7), 4  # tokens of the two prompts, and of each response
STRIDE = 7919  # a prime, by which the token ids are spread over the vocabulary
TOLERANCE, HALF_TOLERANCE = 1e-3, 0.25  # nats per token that rounding explains in fp32, and in half precision


@torch.no_grad()
def own_log_probs(model: Any, sequences: list[list[int]] | None = None, *, training: bool = False) -> Tensor:
    """log p(token | tokens before it) of every token but the first, (N,), fp32 on the CPU, each sequence by itself.

    sequences: by default those of `probe_tokens`. training: in training mode.
    """
    causal, parts = causal_model(model), []
    with probing(model, training):
        for ids in probe_tokens(causal) if sequences is None else sequences:
            ids_1S = torch.tensor([ids], device=causal.device)
            log_p_SK = model(input_ids=ids_1S, use_cache=False).logits[0, :-1].float().log_softmax(-1)
            parts.append(log_p_SK.gather(-1, ids_1S[0, 1:, None]).squeeze(-1))
    return torch.cat(parts).cpu()


@torch.no_grad()
def padded_pass(model: Any, head: Head = own_head, sequences: list[list[int]] | None = None) -> tuple[Tensor, Tensor]:
    """log p of the last RESPONSE tokens of each sequence, (N,), and the input of the head before them, (N, D).

    As in training: one batch, padded on the left. sequences: by default those of `probe_tokens`.
    """
    causal = causal_model(model)
    sequences = probe_tokens(causal) if sequences is None else sequences
    prompts, responses = [ids[:-RESPONSE] for ids in sequences], [ids[-RESPONSE:] for ids in sequences]
    response_ids = torch.tensor(responses, device=causal.device)
    batch = _padded(causal, prompts) | {"completion_ids": response_ids, "mask": torch.ones_like(response_ids)}
    with probing(model):
        logp_BT, _, hidden_ND = response_log_probs(model, batch, head)
    return logp_BT.flatten().cpu(), hidden_ND.cpu()


def padded_log_probs(model: Any, head: Head = own_head, sequences: list[list[int]] | None = None) -> Tensor:
    """The first part of `padded_pass`."""
    return padded_pass(model, head, sequences)[0]


def probe_tokens(causal: Any) -> list[list[int]]:
    """Two sequences, prompt and response; spread over the vocabulary, without the pad token, which may mean padding."""
    text_config = causal.config.get_text_config()
    ids = [1 + STRIDE * number % (text_config.vocab_size - 1) for number in range(sum(PROMPTS) + 2 * RESPONSE)]
    pad = getattr(text_config, "pad_token_id", None)
    ids = [2 if token == pad else token for token in ids]
    first = PROMPTS[0] + RESPONSE
    return [ids[:first], ids[first:]]


def difference(first_N: Tensor, second_N: Tensor) -> float:
    """Mean absolute difference in nats per token."""
    return (first_N - second_N).abs().mean().item()


def agree(first_N: Tensor, second_N: Tensor, model: Any, tolerance: float = TOLERANCE) -> bool:
    """Whether they differ by no more than rounding, HALF_TOLERANCE or, in fp32, `tolerance`; False if not finite."""
    causal = causal_model(model)
    single = all_fp32(model) and torch.get_float32_matmul_precision() == "highest"
    single = single and not torch.is_autocast_enabled(causal.device.type)
    return difference(first_N, second_N) <= (tolerance if single else HALF_TOLERANCE)


def check_log_probs(model: Any) -> None:
    """UserError for a model whose log-probabilities depend on later tokens, on padding, or on how they are computed."""
    causal = causal_model(model)
    sequences = probe_tokens(causal)
    own = own_log_probs(model).split([len(ids) - 1 for ids in sequences])
    before_N = torch.cat([logp[:-RESPONSE] for logp in own])
    after = [logp[-RESPONSE:] for logp in own]
    prompts = [ids[:-RESPONSE] for ids in sequences]
    hint = " (set is_decoder=true in its config.json)" if getattr(causal.config, "is_decoder", None) is False else ""
    _require(model, before_N, own_log_probs(model, prompts), f"later tokens change those of earlier ones{hint}")
    for ids, logp in zip(sequences, after, strict=True):
        alone_N = padded_log_probs(model, sequences=[ids])
        _require(model, logp, alone_N, "position ids that are counted from the first token change them")
    _require(model, torch.cat(after), padded_log_probs(model), "padding on the left changes them")
    generated, recorded_N = _generate(model, prompts)
    reason = "decoding with a cache gives others than a pass over the whole sequence"
    _require(model, padded_log_probs(model, sequences=generated), recorded_N, reason)


def _require(model: Any, first_N: Tensor, second_N: Tensor, reason: str) -> None:
    if not agree(first_N, second_N, model):
        raise UserError(
            f"{type(causal_model(model)).__name__} is not supported, because its log-probabilities are not unique: "
            f"{reason}, by {difference(first_N, second_N):.2g} nats per token; choose another model."
        )


@torch.no_grad()
def _generate(model: Any, prompts: list[list[int]]) -> tuple[list[list[int]], Tensor]:
    """Sequences with greedy responses, and the log-probabilities of the latter, (N,), recorded while decoding."""
    causal = causal_model(model)
    padded = _padded(causal, prompts)
    inputs = {"input_ids": padded["prompt_ids"], "attention_mask": padded["prompt_mask"]}
    config = GenerationConfig(do_sample=False, min_new_tokens=RESPONSE, max_new_tokens=RESPONSE, pad_token_id=0)
    with probing(model), record_log_probs(causal) as sampled:
        sequences = model.generate(**inputs, generation_config=config, synced_gpus=False)
        responses = sequences[:, padded["prompt_ids"].size(1) :].tolist()
        recorded_N = torch.tensor(sampled.of_responses(responses)).flatten()
    return [prompt + response for prompt, response in zip(prompts, responses, strict=True)], recorded_N


def _padded(causal: Any, prompts: list[list[int]]) -> dict[str, Tensor]:
    """prompt_ids and prompt_mask, padded on the left."""
    pad, width = getattr(causal.config.get_text_config(), "pad_token_id", None) or 0, max(map(len, prompts))
    ids = [[pad] * (width - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return {
        "prompt_ids": torch.tensor(ids, device=causal.device),
        "prompt_mask": torch.tensor(mask, device=causal.device),
    }


@contextmanager
def probing(model: Any, training: bool = False) -> Iterator[None]:
    """Inside, the model is in evaluation or training mode; UserError for one that fails on two short sequences."""
    before = model.training
    model.train(training)
    for module in model.modules():
        if hasattr(module, "quant_state"):  # in evaluation mode bitsandbytes packs 4-bit weights on a CPU for inference
            module.training = True  # alone: they have no backward pass afterwards
    source, problem = type(causal_model(model)).__name__, "is not supported, because it fails on two short sequences"
    try:
        with working_on(source, problem):
            yield
    finally:
        model.train(before)
