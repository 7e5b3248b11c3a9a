"""How a setting is declared: its default, meaning, range and unit stand once, in its dataclass field.

    start: float = setting(0.25, "Share of the training before the first refinement.", at_least=0, at_most=1)

`Settings.__post_init__` checks the ranges, `mapft settings` prints what is declared, and `identity` (identity.py) reads
which settings decide a run's result.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from mapft.utils.errors import UserError

LARGEST_COUNT = 2**31  # whole numbers stay below it


FILE_NAME = re.compile(r"\w[\w.-]{0,99}")


def require_file_name(option: str, name: str) -> None:
    """UserError for a name that cannot be part of a file's name on every system."""
    fits = FILE_NAME.fullmatch(name) is not None
    require(fits, option, name, "up to 100 letters, digits, _, - and dots: it becomes part of a file's name")


def pattern_error(pattern: str) -> str:
    """Why a text is not a regular expression; empty where it is one."""
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        return str(error) or type(error).__name__
    return ""


def require(condition: bool, name: str, value: object, need: str) -> None:
    """UserError naming the setting and its value, unless the condition holds. need: what the value must be."""
    if not condition:
        raise UserError(f"{name}={value} is invalid; it must be {need}.")


@dataclass(frozen=True)
class Range:
    """The numbers that a setting accepts; `null` says what an empty setting means, where it may be empty."""

    at_least: float = -math.inf
    at_most: float = math.inf
    above: float = -math.inf
    below: float = math.inf
    null: str = ""

    def __contains__(self, number: float) -> bool:
        return self.at_least <= number <= self.at_most and self.above < number < self.below

    def __str__(self) -> str:
        limits = {"at least": self.at_least, "above": self.above, "at most": self.at_most, "below": self.below}
        parts = [f"{words} {_shown(limit)}" for words, limit in limits.items() if abs(limit) < math.inf]
        return " and ".join(parts or ["a finite number"]) + (f", or null to {self.null}" if self.null else "")


def setting(
    default: Any = dataclasses.MISSING,
    help: str = "",
    *,
    factory: Callable[[], Any] | None = None,
    unit: str = "",
    identity: bool = True,
    **limits: Any,
) -> Any:
    """A dataclass field with its documentation and range.

    default, factory: as in dataclasses.field; a field without either must be given. unit: of the number.
    identity: False for a setting that cannot change what a run computes. limits: fields of `Range`.
    """
    metadata = {"help": help, "unit": unit, "identity": identity, "range": Range(**limits)}
    if factory is not None:
        return dataclasses.field(default_factory=factory, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(kw_only=True)
class Settings:
    """One group of settings. `prefix` is their name on the command line."""

    prefix: ClassVar[str] = ""

    def __post_init__(self) -> None:
        check_ranges(self, self.prefix)


def check_ranges(settings: Any, prefix: str) -> None:
    """UserError for the first number outside the range that its field declares."""
    for field in dataclasses.fields(settings):
        limits, value = field.metadata.get("range"), getattr(settings, field.name)
        if limits is None or isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if isinstance(value, int) and value >= LARGEST_COUNT and limits.below == limits.at_most == math.inf:
            limits = dataclasses.replace(limits, below=LARGEST_COUNT)
        require(value in limits, f"{prefix}.{field.name}".lstrip("."), value, str(limits))


def structured(kind: type, settings: Any, name: str) -> Any:
    """Plain settings below a name of the user's choice as an object of `kind`; UserError for one that does not fit."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    if isinstance(settings, kind):
        return settings
    known = [field.name for field in dataclasses.fields(kind)]
    if not isinstance(settings, Mapping) or not set(settings) <= set(known):
        raise UserError(f"{name}={settings} is invalid; it must be a mapping of some of {', '.join(known)}.")
    try:
        return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(kind), dict(settings)))
    except OmegaConfBaseException as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from None
        raise UserError(f"{name}.{error.full_key}: {str(error).splitlines()[0]}.") from error


def _shown(number: float) -> str:
    return "2^31" if number == LARGEST_COUNT else f"{number:.12g}"
