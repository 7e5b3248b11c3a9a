"""How responses are sampled."""

from dataclasses import dataclass
from typing import ClassVar

from mapft.config.fields import Settings, setting


@dataclass(kw_only=True)
class SamplingConfig(Settings):
    """How every response is sampled, in pilot, PPO, decoding and evaluation alike."""

    prefix: ClassVar[str] = "sampling"
    max_new_tokens: int = setting(50, "Longest response.", unit="tokens", at_least=1)
    temperature: float = setting(1.0, "Sampling temperature; 1 is exact.", at_least=1e-3, at_most=1e3)
    top_k: int = setting(0, "Sample from the k likeliest tokens; 0 is off, and exact.", at_least=0)
    top_p: float = setting(
        1.0, "Sample from the likeliest tokens of this total mass; 1 is off, and exact.", above=0, at_most=1
    )
    samples_per_prompt: int = setting(8, "K, responses to every pilot prompt.", at_least=1)
    batch_size: int = setting(
        256, "Responses that share a seed; changes the random samples, not their distribution.", at_least=1
    )
    micro_batch_size: int | None = setting(
        None,
        "Responses generated at once; the samples are the same, up to rounding.",
        at_least=1,
        null="use as many as fit into memory",
        identity=False,
    )
