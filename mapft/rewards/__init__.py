"""Scores r_i(x, y): one file per kind, one table that names the kinds.

To add a kind: one file with a frozen dataclass of settings that is a `Score`; one line in
KINDS; one YAML in conf/rewards; one row in tests/rewards/test_contract.py. Importing this package loads no torch.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from math import inf
from types import UnionType
from typing import Any, Protocol, get_args, get_origin, get_type_hints

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
        """Of the raw score; "probability" and "nats..." say which relative gains make sense."""
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


HOW = ("batch", "batch_tokens", "retries", "timeout")  # settings that change how a score is computed, never its value

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


def identity(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What of a score's settings decides its values; scores and runs are kept under it."""
    return {key: given for key, given in settings.items() if key not in HOW}


def _parse_one(name: str, settings: dict[str, Any]) -> Score:
    if "_target_" in settings:
        settings = _as_function(settings)
    kind = settings.pop("kind", None)
    if not isinstance(kind, str) or kind not in KINDS:
        raise UserError(
            f"rewards.{name}.kind={kind} is unknown; use one of {', '.join(KINDS)}, or _target_: module.function."
        )
    fields, hints = dataclasses.fields(KINDS[kind]), get_type_hints(KINDS[kind])
    known = {f.name: f.default is f.default_factory is dataclasses.MISSING for f in fields}
    unknown = settings.keys() - known.keys()
    if unknown:
        raise UserError(
            f"rewards.{name} has no setting {', '.join(sorted(unknown))}; kind {kind} knows {', '.join(known)}."
        )
    missing = [key for key, required in known.items() if required and key not in settings]
    if missing:
        raise UserError(f"rewards.{name}.{missing[0]} is missing; kind {kind} needs it.")
    for key, given in settings.items():
        if not _fits(given, hints[key]):
            wanted = hints[key].__name__ if isinstance(hints[key], type) else hints[key]
            raise UserError(f"rewards.{name}.{key}={given!r} does not fit; it must be {wanted}.")
    _check(name, settings)
    return KINDS[kind](**settings)


def _as_function(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Hydra's way of naming a callable, as kind `function`: what is no setting of ours is an argument of its own."""
    ours = {f.name for f in dataclasses.fields(FunctionScore)} - {"target", "arguments"}
    module, _, attribute = str(settings["_target_"]).rpartition(".")
    arguments = {key: given for key, given in settings.items() if key not in {"_target_", "kind", *ours}}
    function = {"kind": "function", "target": f"{module}:{attribute}", "arguments": arguments}
    return function | {key: given for key, given in settings.items() if key in ours}


def _fits(given: Any, hint: Any) -> bool:
    """Whether a setting is of its field's type; an int will do for a float, a list for a tuple."""
    if get_origin(hint) is UnionType:
        return any(_fits(given, each) for each in get_args(hint))
    if get_origin(hint) is tuple:
        return isinstance(given, Sequence) and all(_fits(each, get_args(hint)[0]) for each in given)
    if isinstance(given, bool) or hint is bool:
        return isinstance(given, bool) and hint is bool
    return isinstance(given, (int, float) if hint is float else get_origin(hint) or hint)


def _check(name: str, settings: Mapping[str, Any]) -> None:
    """What holds for every kind that has the setting."""
    sign = settings.get("sign", 1.0)
    if not 0 < abs(sign) < inf:
        raise UserError(f"rewards.{name}.sign={sign} is no direction; give 1, -1, or another factor that is not 0.")
    for key in ("template", "second"):
        text = settings.get(key) or ""
        try:
            text.format(prompt="", response="")
        except (KeyError, IndexError, ValueError) as error:
            raise UserError(
                f"rewards.{name}.{key}={text!r} does not fit; it takes {{prompt}} and {{response}}."
            ) from error
    if settings.get("dtype", "auto") not in (known := ("auto", "float32", "bfloat16", "float16")):
        raise UserError(f"rewards.{name}.dtype={settings['dtype']} is unknown; use one of {', '.join(known)}.")
    for key in ("max_tokens", "batch_tokens"):
        if settings.get(key, 1) < 1:
            raise UserError(f"rewards.{name}.{key}={settings[key]} is out of range; it must be at least 1.")
