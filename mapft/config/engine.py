"""What generates responses."""

import re
from dataclasses import dataclass
from typing import ClassVar

from mapft.config.fields import Settings, require, setting
from mapft.utils.errors import UserError

TRANSFORMERS = "transformers"
ADDRESS = re.compile(r"https?://[^/\s:]+(:\d+)?/?|https?://\[[0-9a-fA-F:]+\](:\d+)?/?")


@dataclass(kw_only=True)
class EngineConfig(Settings):
    """What generates responses, in pilot, visits, PPO, decoding and evaluation alike (mapft/sampling/engines)."""

    prefix: ClassVar[str] = "engine"
    name: str = setting(TRANSFORMERS, "Name in ENGINES; selected with engine=NAME.")
    urls: list[str] = setting(
        factory=list, help="Addresses of servers of the base model, http://host:port.", identity=False
    )
    python: str | None = setting(
        None,
        "Python of an environment with vLLM: a run starts a server at each address where none answers, and stops it.",
        null="use servers that are started by hand",
        identity=False,
    )
    cache_gb: float = setting(4.0, "KV cache of each of these servers.", unit="10^9 bytes", above=0, identity=False)
    options: list[str] = setting(
        factory=list, help="Further options of these servers, as of `vllm serve`.", identity=False
    )
    max_ratio: float = setting(
        1.5,
        "C: responses whose density ratio of policy and engine is at most C are exact; each takes C proposals or more.",
        above=1,
        at_most=1000,
    )
    max_level_bound: float = setting(
        0.05,
        "Largest estimated bound on the error of a level with which a run goes on.",
        unit="sd",
        above=0,
        identity=False,
    )
    adapters: str | None = setting(
        None, "Folder in which the servers find adapters.", null="use one for temporary files", identity=False
    )
    concurrency: int = setting(64, "Requests of each process at a time, for each server.", at_least=1, identity=False)
    timeout: float = setting(300.0, "Longest wait for a reply.", unit="seconds", above=0, identity=False)
    retries: int = setting(3, "Attempts after the first one, for each server.", at_least=0, identity=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.name != TRANSFORMERS:
            valid = bool(self.urls) and all(map(ADDRESS.fullmatch, self.urls))
            require(valid, "engine.urls", self.urls, "one address or more, http://host:port")
        elif self.python:
            raise UserError(
                f"engine.python={self.python} starts vLLM servers, but engine={self.name} needs none; set engine=vllm."
            )
