"""Which settings decide a result. Run folders and cached samples and scores are named by a hash of them.

An identity lists the settings that differ from their defaults and can change the result (`identity=False` marks those
that cannot), so a new setting renames nothing. Changing a default, or what a cached file holds, needs a new VERSION.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from enum import Enum
from hashlib import blake2b
from json import dumps
from typing import Any

VERSION = 6  # raise it when a default (tests/config/test_identity.py) or what a cached file holds changes


def identity(settings: Any) -> dict[str, Any]:
    """{setting: plain value} of a settings dataclass: those that differ from their default and can change a result."""
    differing = {}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if field.metadata.get("identity", True) and not _is_default(field, value):
            differing[field.name] = plain(value)
    return differing


def fingerprint(*parts: Any) -> str:
    """12 hexadecimal digits of BLAKE2b over VERSION and the parts as sorted JSON."""
    content = dumps([VERSION, *map(plain, parts)], sort_keys=True, default=str)
    return blake2b(content.encode("utf-8", "surrogatepass"), digest_size=6).hexdigest()


def plain(value: Any) -> Any:
    """Settings as JSON has them: dataclasses by `identity`, enums by value."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return identity(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [plain(each) for each in value]
    return value


def _is_default(field: "dataclasses.Field[Any]", value: Any) -> bool:
    if field.default_factory is not dataclasses.MISSING:
        return bool(value == field.default_factory())
    return field.default is not dataclasses.MISSING and bool(value == field.default)
