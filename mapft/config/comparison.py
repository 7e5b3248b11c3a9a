"""`mapft compare`: the methods that are compared."""

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from mapft.config.fields import Settings, setting


class Method(StrEnum):
    """A method that `mapft compare` knows."""

    simultaneous = "simultaneous"
    sequential = "sequential"
    decoding = "decoding"
    best_of_n = "best_of_n"
    single = "single"
    morlhf = "morlhf"
    soup = "soup"
    dpo = "dpo"
    published = "published"


@dataclass(kw_only=True)
class ComparisonConfig(Settings):
    """Which methods are trained and evaluated on the same prompts, besides this run's own."""

    prefix: ClassVar[str] = "comparison"
    methods: list[Method] = setting(factory=lambda: list(Method), help="Methods, in this order.")
    random_weights: int = setting(5, "Number of random weight vectors of morlhf.", at_least=1)
    soup_steps: int = setting(3, "Weights of soup are multiples of 1/steps that sum to 1.", at_least=1)
    candidates: int = setting(16, "Candidates of decoding and best_of_n.", at_least=1)
