"""Evaluation on held-out prompts."""

from dataclasses import dataclass
from typing import Any, ClassVar

from mapft.config.decoding import Choose
from mapft.config.fields import Settings, require, require_file_name, setting, structured
from mapft.utils.errors import UserError

BASE, TUNED = "base", "tuned"  # the policies that are always evaluated


@dataclass(kw_only=True)
class PolicyConfig(Settings):
    """A policy to evaluate beside the base and the tuned one: an adapter on the base model, decoding, or both."""

    prefix: ClassVar[str] = "evaluation.policies.NAME"
    adapter: str | None = setting(None, "Folder or Hub id of a PEFT adapter.")
    candidates: int | None = setting(
        None,
        "Decoding: n candidates, of p0 with the pilot's lambda, or of the adapter with that of this run's training.",
        at_least=1,
    )
    choose: Choose = setting(Choose.sample, "How decoding picks a candidate.")
    samples_per_prompt: int | None = setting(
        None, "Responses to every prompt; null: evaluation.samples_per_prompt.", at_least=1
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.adapter is None and self.candidates is None:
            raise UserError("A policy of evaluation.policies has neither an adapter nor candidates; give one of them.")


@dataclass(kw_only=True)
class EvaluationConfig(Settings):
    """Realized levels on held-out prompts."""

    prefix: ClassVar[str] = "evaluation"
    prompts: int | None = setting(512, "Held-out prompts to use.", at_least=1, null="use all of them")
    samples_per_prompt: int = setting(8, "Responses to every prompt.", at_least=1)
    policies: dict[str, Any] = setting(
        factory=dict, help=f"More policies by name, beside {BASE} and {TUNED}: adapter, candidates, and choose."
    )
    confidence: float = setting(0.95, "Confidence level of the intervals.", above=0, below=1)
    bootstrap: int = setting(2000, "Resamples of the prompts.", at_least=100)
    tolerance_sd: float = setting(
        0.10, "A target is met if the realized level is at most this far below it.", unit="base sd", at_least=0
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.policies = {
            name: structured(PolicyConfig, settings, f"evaluation.policies.{name}")
            for name, settings in self.policies.items()
        }
        for name, policy in self.policies.items():
            require_file_name("evaluation.policies", name)
            require(policy.adapter != "", f"evaluation.policies.{name}.adapter", "", "a folder or Hub id")
            exact = policy.adapter is None or policy.choose is Choose.sample
            require(exact, f"evaluation.policies.{name}.choose", policy.choose.value, "sample with an adapter")
            if name in (BASE, TUNED):
                raise UserError(
                    f"evaluation.policies.{name} cannot have this name, because {BASE} and {TUNED} are always "
                    "evaluated; rename it."
                )
