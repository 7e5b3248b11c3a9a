"""Scores r_i(x, y): one file per kind, one table that names the kinds.

To add a kind: one file with a frozen dataclass of settings that is a `Score`; one line in
KINDS; one YAML in conf/rewards; one row in tests/rewards/test_contract.py. Importing this package loads no torch.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from mapft.errors import UserError
from mapft.rewards.classifier import ClassifierScore
from mapft.rewards.coherence import CoherenceScore
from mapft.rewards.diversity import DiversityScore
from mapft.rewards.format import FormatScore
from mapft.rewards.function import FunctionScore
from mapft.rewards.keywords import KeywordsScore
from mapft.rewards.length import LengthScore
from mapft.rewards.perplexity import PerplexityScore
from mapft.rewards.remote import RemoteScore
from mapft.rewards.sentiment import SentimentScore


class Scorer(Protocol):
    """A loaded score: raw scores of responses, higher is better, one finite float per response."""

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        """(N,) float64, in the score's own unit."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes of its weights; 0 without a model."""
        ...

    def to_device(self) -> None:
        """Weights to the device, if they are not there."""
        ...

    def to_host(self) -> None:
        """Weights to host memory."""
        ...


class Score(Protocol):
    """The settings of a score, for pilot, training and evaluation alike. After its sign, higher is better."""

    @property
    def unit(self) -> str:
        """Of the raw score."""
        ...

    @property
    def bounds(self) -> tuple[float, float]:
        """Least and greatest score, after the sign; infinite where there is none."""
        ...

    def load(self, name: str) -> Scorer:
        """The scorer of value `name`, models on the best device here."""
        ...

    def files(self) -> list[str]:
        """Paths of what the scores depend on besides the settings: when these change, texts are scored again."""
        ...

    def estimated_nbytes(self) -> int:
        """Bytes that its weights will take, known without loading them."""
        ...


KINDS: dict[str, type] = {
    "classifier": ClassifierScore,
    "coherence": CoherenceScore,
    "diversity": DiversityScore,
    "format": FormatScore,
    "function": FunctionScore,
    "keywords": KeywordsScore,
    "length": LengthScore,
    "perplexity": PerplexityScore,
    "remote": RemoteScore,
    "sentiment": SentimentScore,
}


def parse(rewards: Mapping[str, Mapping[str, Any]]) -> dict[str, Score]:
    """Settings by value name -> scores by value name; a misspelt key or kind is refused with the known ones."""
    for name, settings in rewards.items():
        if not isinstance(settings, Mapping):
            raise UserError(
                f"rewards.{name}={settings} is no group of settings; write {{kind: classifier, path: ...}}."
            )
    return {name: _parse_one(name, dict(settings)) for name, settings in rewards.items()}


def _parse_one(name: str, settings: dict[str, Any]) -> Score:
    kind = settings.pop("kind", None)
    if kind not in KINDS:
        raise UserError(f"rewards.{name}.kind={kind} is unknown; use one of {', '.join(KINDS)}.")
    fields = dataclasses.fields(KINDS[kind])
    known = {f.name: f.default is f.default_factory is dataclasses.MISSING for f in fields}
    unknown = settings.keys() - known.keys()
    if unknown:
        raise UserError(
            f"rewards.{name} has no setting {', '.join(sorted(unknown))}; kind {kind} knows {', '.join(known)}."
        )
    missing = [key for key, required in known.items() if required and key not in settings]
    if missing:
        raise UserError(f"rewards.{name}.{missing[0]} is missing; kind {kind} needs it.")
    return KINDS[kind](**settings)
