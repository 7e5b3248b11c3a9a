"""Responses of the policy: tokens, log-probabilities and texts."""

from collections.abc import Sequence
from typing import Any

from mapft.ppo.batch import Batch, padded, padded_batch
from mapft.ppo.ppo_config import EXACT_SAMPLING, PPOConfig
from mapft.ppo.trl_seam import Generate, TRLSeam
from mapft.utils.errors import UserError
from mapft.utils.forward import all_fp32
from mapft.utils.oom import OomRetry
from mapft.utils.sampled_log_probs import record_log_probs
from mapft.utils.text import response_texts

PROMPT_TOKENS = "prompt_token_ids"  # column of a dataset with the tokens of each prompt, which is then not rendered
RESPONSE_TEXTS = "response_texts"  # the argument of reward functions that has the text of each response
Texts = dict[str, list[Any]]  # prompts, completions, completion_ids: what reward functions receive


class TokenGenerator:
    """TRL's generation, in parts where memory is short; in fp32 with the log-probabilities of the sampled tokens.

    Recording them saves a pass of the policy. In half precision and over a quantized base a decoding step and a pass
    over a full sequence differ by more than rounding (the first ratio would not be 1), so there the pass is made.
    """

    def __init__(self, args: PPOConfig) -> None:
        exact = all(getattr(args, name) == value for name, value in EXACT_SAMPLING.items())
        half = args.bf16 or args.fp16
        standard_cache = args.cache_implementation is None and not args.use_transformers_continuous_batching
        self.records_log_probs = exact and not half and standard_cache
        self._in_parts = OomRetry(args.generation_rows)

    def __call__(
        self, causal: Any, prompt_ids: list[list[int]], generate: Generate, *, splittable: bool
    ) -> tuple[list[list[int]], list[list[float]] | None]:
        """Token ids and, where they are recorded, log-probabilities of one response per prompt.

        splittable: whether each process may call `generate` a different number of times.
        """
        records = self.records_log_probs and all_fp32(causal)

        def sample(prompts: Sequence[list[int]]) -> tuple[list[list[int]], list[list[float]]]:
            if not records:
                return generate(prompts), []
            with record_log_probs(causal) as sampled:
                completion_ids = generate(prompts)
            return completion_ids, sampled.of_responses(completion_ids)

        parts = self._in_parts(prompt_ids, sample) if splittable else [sample(prompt_ids)]
        log_probs = [row for _, rows in parts for row in rows]
        return [ids for completions, _ in parts for ids in completions], log_probs or None


def generate_batch(trainer: TRLSeam, rows: list[dict[str, Any]]) -> tuple[Batch, Texts]:
    """One response of the current policy to every row's prompt.

    The batch has the key old_logp where log-probabilities were recorded. The text of the response, and columns that a
    rollout_func returns, are added to the rows, for the reward functions.
    """
    prompts = [row["prompt"] for row in rows]
    responses = trainer.responses(prompts, [row[PROMPT_TOKENS] for row in rows] if PROMPT_TOKENS in rows[0] else None)
    if responses.tool_mask is not None:
        raise UserError("rollout_func returned env_mask, but PPOTrainer trains on every token of a response; drop it.")
    for name, column in (responses.extra or {}).items():  # one element per row, or one object for all rows
        for number, row in enumerate(rows):
            row[name] = column[number] if isinstance(column, list) else column
    tokenizer, device = trainer.text_tokenizer, trainer.accelerator.device
    batch = padded_batch(responses.prompt_ids, responses.completion_ids, tokenizer.pad_token_id, device)
    if responses.log_probs is not None and trainer.rollout_func is None:  # a rollout_func may use another sampler
        batch["old_logp"] = padded(responses.log_probs, "right", 0.0, device)
    texts = response_texts(tokenizer, responses.prompt_ids, responses.completion_ids)
    for row, text in zip(rows, texts, strict=True):
        row[RESPONSE_TEXTS] = text
    completions = [_with_text(*pair) for pair in zip(responses.completions, texts, strict=True)]
    return batch, {"prompts": prompts, "completions": completions, "completion_ids": responses.completion_ids}


def _with_text(completion: Any, text: str) -> Any:
    """The text as the pilot's were decoded, in place of TRL's; a message with more than its content is unchanged."""
    if isinstance(completion, str):
        return text
    return [completion[0] | {"content": text}] if completion[0].keys() == {"role", "content"} else completion
