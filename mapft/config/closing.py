"""What comes after training: decoding, evaluation, comparison."""

import dataclasses
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from mapft.config.checks import require
from mapft.errors import UserError


class Choose(StrEnum):
    """How decoding picks one of n candidates: drawn by softmax(lam.r), the best, or by rejection (exact p_lam)."""

    draw = "draw"
    best = "best"
    rejection = "rejection"


@dataclass(kw_only=True)
class DecodingConfig:
    """Decoding-time alignment (see mapft/sampling/decoding.py)."""

    candidates: int = 16  # n per response; rejection draws n at a time
    choose: Choose = Choose.draw
    most_candidates: int = 4096  # per response, after which rejection gives up on it
    prompts: str | None = None  # a file or dataset of prompts, read as data.* says; null: the held-out prompts
    samples_per_prompt: int = 1

    def __post_init__(self) -> None:
        require(self.candidates >= 1, "decoding.candidates", self.candidates, "at least 1")
        most = self.most_candidates
        require(most >= self.candidates, "decoding.most_candidates", most, "at least decoding.candidates")
        require(self.samples_per_prompt >= 1, "decoding.samples_per_prompt", self.samples_per_prompt, "at least 1")


@dataclass(kw_only=True)
class PolicyConfig:
    """A policy to evaluate beside the base and the one that was trained: an adapter on the base, or decoding."""

    adapter: str | None = None  # folder or Hub id
    candidates: int | None = None  # decoding with n candidates and the pilot's lambda
    choose: Choose = Choose.draw
    samples_per_prompt: int | None = None  # null: evaluation.samples_per_prompt

    def __post_init__(self) -> None:
        if (self.adapter is None) == (self.candidates is None):
            raise UserError("A policy of evaluation.policies has either an adapter or candidates; give one of them.")
        require(self.candidates is None or self.candidates >= 1, "candidates", self.candidates, "at least 1")
        per_prompt = self.samples_per_prompt
        require(per_prompt is None or per_prompt >= 1, "samples_per_prompt", per_prompt, "at least 1")


def _policy(name: str, settings: Any) -> PolicyConfig:
    """Plain settings, as Hydra gives them below a name of the user's, as a PolicyConfig."""
    if isinstance(settings, PolicyConfig):
        return settings
    known = [f.name for f in dataclasses.fields(PolicyConfig)]
    if not isinstance(settings, dict) or not set(settings) <= set(known):
        raise UserError(f"evaluation.policies.{name}={settings} does not fit; its settings are {', '.join(known)}.")
    for key in ("candidates", "samples_per_prompt"):
        if not isinstance(settings.get(key), int | None) or isinstance(settings.get(key), bool):
            raise UserError(f"evaluation.policies.{name}.{key}={settings[key]} is no whole number.")
    if settings.get("choose", "draw") not in list(Choose):
        raise UserError(f"evaluation.policies.{name}.choose={settings['choose']} is none of {', '.join(Choose)}.")
    return PolicyConfig(**settings | {"choose": Choose(settings.get("choose", "draw"))})


@dataclass(kw_only=True)
class EvaluationConfig:
    """The check of the promise on held-out prompts."""

    prompts: int | None = 512  # of the held-out prompts; null: all
    samples_per_prompt: int = 8
    policies: dict[str, Any] = field(default_factory=dict)  # PolicyConfig by name, besides base and tuned
    confidence: float = 0.95
    bootstrap: int = 2000  # resamples of the prompts
    tolerance_sd: float = 0.10  # a target counts as met down to this many base sd below it

    def __post_init__(self) -> None:
        require(self.prompts is None or self.prompts >= 1, "evaluation.prompts", self.prompts, ">= 1")
        require(0 < self.confidence < 1, "evaluation.confidence", self.confidence, "between 0 and 1")
        require(self.samples_per_prompt >= 1, "evaluation.samples_per_prompt", self.samples_per_prompt, "at least 1")
        require(self.tolerance_sd >= 0, "evaluation.tolerance_sd", self.tolerance_sd, "0 or more")
        require(self.bootstrap >= 100, "evaluation.bootstrap", self.bootstrap, "at least 100")
        self.policies = {name: _policy(name, settings) for name, settings in self.policies.items()}
        taken = sorted({"base", "tuned"} & set(self.policies))
        require(
            not taken, "evaluation.policies", ", ".join(taken), "named otherwise than the two that are always there"
        )


class Method(StrEnum):
    """A way to a policy that `mapft compare` knows."""

    simultaneous = "simultaneous"
    sequential = "sequential"
    decoding = "decoding"
    single = "single"
    morlhf = "morlhf"
    soup = "soup"
    best_of_n = "best_of_n"
    dpo = "dpo"
    published = "published"


@dataclass(kw_only=True)
class ComparisonConfig:
    """`mapft compare`: which methods, beside this run's, are trained and evaluated on the same prompts."""

    methods: list[Method] = field(default_factory=lambda: list(Method))
    random_weights: int = 5  # of morlhf
    soup_steps: int = 3  # of soup: weights are multiples of 1/steps that sum to 1
    candidates: int = 16  # of decoding and best_of_n

    def __post_init__(self) -> None:
        for name in ("random_weights", "soup_steps", "candidates"):
            require(getattr(self, name) >= 1, f"comparison.{name}", getattr(self, name), "at least 1")
