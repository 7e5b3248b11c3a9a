"""Engines: what generates responses in place of transformers. One file, one line in ENGINES and one file in conf/engine
each; README.md has the mathematics.
"""

from collections.abc import Callable

from mapft.config import Config
from mapft.config.engine import TRANSFORMERS
from mapft.sampling.engines.engine import Engine, Proposal
from mapft.sampling.engines.exact import Mismatch, RejectionSampler, check_bound, mismatch
from mapft.sampling.engines.vllm import make_vllm
from mapft.utils.errors import UserError

ENGINES: dict[str, Callable[[Config], Engine]] = {"vllm": make_vllm}

__all__ = ["ENGINES", "Engine", "Mismatch", "Proposal", "RejectionSampler", "check_bound", "make_engine", "mismatch"]


def make_engine(config: Config) -> RejectionSampler | None:
    """The engine of a run; None for transformers.

    UserError for an unknown name, and for a sampling that is not the model's whole distribution at temperature 1.
    """
    settings, sampling = config.engine, config.sampling
    if settings.name == TRANSFORMERS:
        return None
    if settings.name not in ENGINES:
        raise UserError(f"engine.name={settings.name} is unknown; use {TRANSFORMERS} or {', '.join(ENGINES)}.")
    if sampling.temperature != 1 or sampling.top_k or sampling.top_p < 1:
        raise UserError(
            f"engine={settings.name} needs sampling.temperature=1, top_k=0 and top_p=1, because its responses are "
            "accepted by the policy's full distribution; change them, or set engine=transformers."
        )
    return RejectionSampler(ENGINES[settings.name](config), settings)
