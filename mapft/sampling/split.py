"""The prompts of a run, split by their text into training and evaluation."""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b

from mapft.config import Config, TooLong
from mapft.sampling.prompts import Prompt, load_prompts
from mapft.utils.errors import UserError
from mapft.utils.text import text_of

TOO_LONG_ACTIONS = {
    TooLong.drop: "they are skipped",
    TooLong.cut: "texts are cut to their last tokens, messages are skipped",
}


@dataclass(frozen=True)
class PromptSplit:
    """Distinct prompts. `pilot`: the first training prompts. `held_out`: for evaluation, never used in training."""

    training: list[Prompt]
    pilot: list[Prompt]
    held_out: list[Prompt]


def load_split(config: Config, report: Callable[[str], None]) -> PromptSplit:
    """The prompts of data.path, split by their text. report: receives a message if data.too_long changes prompts."""
    prompts = apply_length_limit(load_prompts(config.data), config, report, at_least=2)
    training, held_out = split(prompts, config.data.evaluation_fraction)
    return PromptSplit(training, training[: config.data.pilot_prompts], held_out[: config.evaluation.prompts])


def apply_length_limit(
    prompts: list[Prompt], config: Config, report: Callable[[str], None], at_least: int
) -> list[Prompt]:
    """The prompts after data.too_long; UserError where fewer than `at_least` remain."""
    data = config.data
    if data.too_long is TooLong.stop:
        return prompts
    from mapft.sampling.models import load_tokenizer
    from mapft.sampling.tokens import shorten_prompts

    remaining, long = shorten_prompts(prompts, load_tokenizer(config.model), data)
    count = f"{long} of {len(prompts)} prompts are longer than data.max_prompt_tokens={data.max_prompt_tokens}"
    if long:
        report(f"{count}: {TOO_LONG_ACTIONS[data.too_long]}.")
    if len(remaining) < at_least:
        raise UserError(f"{count}, so {len(remaining)} remain and {at_least} are needed; raise data.max_prompt_tokens.")
    return remaining


def split(prompts: list[Prompt], evaluation_fraction: float) -> tuple[list[Prompt], list[Prompt]]:
    """(training, evaluation). A prompt is for evaluation if hash(text) < evaluation_fraction, with hash in [0, 1).

    The side of a prompt depends on its text alone, not on the rest of the file. Both sides are ordered by the hash, so
    the first n prompts of a side are a random sample of it. An empty side (few prompts) gets the nearest prompt.
    """
    hashes = {
        text_of(p): int.from_bytes(blake2b(text_of(p).encode("utf-8", "replace"), digest_size=8).digest()) / 2**64
        for p in prompts
    }
    ordered = sorted(prompts, key=lambda prompt: hashes[text_of(prompt)])
    held_out = sum(hashes[text_of(p)] < evaluation_fraction for p in ordered)
    held_out = min(max(held_out, 1), len(ordered) - 1)
    return ordered[held_out:], ordered[:held_out]
