"""Decoding-time alignment."""

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from mapft.config.fields import Settings, require, setting

LEAST_DRAWS = 3  # responses to a prompt from which the density of `sample` is estimated


class Choose(StrEnum):
    """How decoding picks one of n candidates: sampled by softmax(lam.r), the best, or by rejection (exactly p_lam)."""

    sample = "sample"
    best = "best"
    rejection = "rejection"

    def kl_is_bound(self, samples_per_prompt: int) -> bool:
        """Whether the KL of decoding is an upper bound, and not an estimate, with so many responses to a prompt."""
        return self is Choose.best or (self is Choose.sample and samples_per_prompt < LEAST_DRAWS)


@dataclass(kw_only=True)
class DecodingConfig(Settings):
    """Decoding-time alignment (mapft/sampling/decoding.py)."""

    prefix: ClassVar[str] = "decoding"
    candidates: int = setting(16, "n, candidates per response; rejection generates n at a time.", at_least=1)
    choose: Choose = setting(Choose.sample, "How one candidate is picked.")
    adapter: str | None = setting(
        None, "Adapter of a tuned policy, which generates the candidates.", null="use the base policy"
    )
    max_candidates: int = setting(4096, "Candidates per response after which rejection gives up.", at_least=1)
    prompts: str | None = setting(
        None, "A file or dataset of prompts, read with the settings of `data`; null: the held-out prompts."
    )
    samples_per_prompt: int = setting(1, "Responses to every prompt.", at_least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        enough = self.max_candidates >= self.candidates
        require(self.adapter != "", "decoding.adapter", "", "a folder or Hub id, or null")
        exact = self.adapter is None or self.choose is Choose.sample
        require(exact, "decoding.choose", self.choose.value, "sample with an adapter")
        require(enough, "decoding.max_candidates", self.max_candidates, "at least decoding.candidates")
