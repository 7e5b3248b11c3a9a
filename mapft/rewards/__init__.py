"""Scores r_i(x, y): one file per kind, one table that names the kinds. Importing this package loads no torch.

mapft/rewards/README.md lists the kinds and says how to add one.
"""

import dataclasses
from collections.abc import Mapping
from enum import Enum
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from mapft.config.identity import identity
from mapft.rewards.classifier import ClassifierScore
from mapft.rewards.coherence import CoherenceScore
from mapft.rewards.diversity import DiversityScore
from mapft.rewards.format import FormatScore
from mapft.rewards.function import FunctionScore
from mapft.rewards.judge import JudgeScore
from mapft.rewards.keywords import KeywordsScore
from mapft.rewards.length import LengthScore
from mapft.rewards.match import MatchScore
from mapft.rewards.perplexity import PerplexityScore
from mapft.rewards.remote import RemoteScore
from mapft.rewards.remote_judge import RemoteJudgeScore
from mapft.rewards.score import Score, Scorer, check_names
from mapft.rewards.sentiment import SentimentScore
from mapft.utils.errors import UserError

__all__ = ["KINDS", "Score", "Scorer", "parse", "score_identity"]

KINDS: dict[str, type[Score]] = {
    "classifier": ClassifierScore,
    "coherence": CoherenceScore,
    "diversity": DiversityScore,
    "format": FormatScore,
    "function": FunctionScore,
    "judge": JudgeScore,
    "keywords": KeywordsScore,
    "length": LengthScore,
    "match": MatchScore,
    "perplexity": PerplexityScore,
    "remote": RemoteScore,
    "remote_judge": RemoteJudgeScore,
    "sentiment": SentimentScore,
}
TYPE_NAMES = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    tuple: "a list",
    dict: "a mapping",
}  # of the fields, in error messages


def parse(rewards: Mapping[str, Mapping[str, Any]]) -> dict[str, Score]:
    """{value name: settings} -> {value name: score}. UserError for an invalid name, or setting, or a missing one."""
    check_names(rewards)
    for name, settings in rewards.items():
        if not isinstance(settings, Mapping):
            raise UserError(
                f"rewards.{name}={settings} is invalid; write its settings, for example "
                f"rewards.{name}={{kind: classifier, path: ...}}."
            )
    return {name: _parse_score(name, dict(settings)) for name, settings in rewards.items()}


def score_identity(score: Score) -> dict[str, Any]:
    """The kind and the settings that decide a score's values, without those at their default."""
    kind = next(name for name, cls in KINDS.items() if cls is type(score))
    return {"kind": kind} | identity(score)


def _parse_score(name: str, settings: dict[str, Any]) -> Score:
    if "_target_" in settings:
        settings = _as_function(settings)
    kind = settings.pop("kind", None)
    if not isinstance(kind, str) or kind not in KINDS:
        raise UserError(
            f"rewards.{name}.kind={kind} is unknown; use one of {', '.join(KINDS)}, or _target_: module.function."
        )
    _check_names(name, kind, settings)
    hints = get_type_hints(KINDS[kind])
    try:
        return KINDS[kind](**{key: _convert(key, value, hints[key]) for key, value in settings.items()})
    except UserError as error:
        raise UserError(f"rewards.{name}.{error}") from error


def _check_names(name: str, kind: str, settings: Mapping[str, Any]) -> None:
    fields = {field.name: field for field in dataclasses.fields(KINDS[kind])}
    unknown = sorted(key for key in map(str, settings) if key not in fields)
    if unknown:
        raise UserError(f"rewards.{name}.{unknown[0]} is unknown; the settings of kind {kind} are {', '.join(fields)}.")
    for key, field in fields.items():
        if key not in settings and field.default is field.default_factory is dataclasses.MISSING:
            raise UserError(f"rewards.{name}.{key} is missing; kind {kind} requires it.")


def _as_function(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Hydra's `_target_` as kind `function`: keys that are not settings of the kind are the function's arguments."""
    own = {field.name for field in dataclasses.fields(FunctionScore)} - {"target", "arguments"}
    module, _, attribute = str(settings["_target_"]).rpartition(".")
    arguments = {key: value for key, value in settings.items() if key not in {"_target_", "kind", *own}}
    function = {"kind": "function", "target": f"{module}:{attribute}", "arguments": arguments}
    return function | {key: value for key, value in settings.items() if key in own}


def _convert(key: str, value: Any, hint: Any) -> Any:
    """The value as its field's type: a list becomes a tuple, a text a member of its Enum. No text becomes a number.

    OmegaConf's structured merge would turn "5" into 5, and interpret `${` in a template or pattern.
    """
    if isinstance(hint, UnionType):  # X | None
        return None if value is None else _convert(key, value, next(t for t in get_args(hint) if t is not NoneType))
    if get_origin(hint) is tuple and isinstance(value, list | tuple):
        return tuple(_convert(key, item, get_args(hint)[0]) for item in value)
    if isinstance(hint, type) and issubclass(hint, Enum):
        if value not in list(hint):
            raise UserError(f"{key}={value} is unknown; use one of {', '.join(member.value for member in hint)}.")
        return hint(value)
    origin = get_origin(hint) or hint
    accepted = (int, float) if origin is float else origin
    if not isinstance(value, accepted) or (isinstance(value, bool) and origin is not bool):
        raise UserError(f"{key}={value!r} is invalid; it must be {TYPE_NAMES[origin]}.")
    return value
