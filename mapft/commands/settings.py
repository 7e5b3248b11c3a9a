"""Every setting with its meaning, default, range and unit."""

import argparse
import dataclasses
from collections.abc import Iterator
from enum import Enum
from typing import Any, get_args, get_type_hints

from mapft.utils.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The group, or all of them."""
    parser.add_argument("group", nargs="?", help="for example trainer, mode or rewards; without it, all groups")


def main(arguments: argparse.Namespace) -> None:
    """One block per setting."""
    groups = {name: kinds for name, kinds in all_groups().items() if arguments.group in (None, name)}
    if not groups:
        raise UserError(f"The group {arguments.group} is unknown; use one of {', '.join(all_groups())}.")
    blocks = []
    for name, kinds in groups.items():
        for selected, kind in kinds.items():
            blocks.append(f"{selected or name}: {(kind.__doc__ or '').strip().splitlines()[0]}")
            blocks += list(_settings(kind, name))
    print("\n".join(blocks))


def all_groups() -> dict[str, dict[str, type]]:
    """{group: {how it is selected: dataclass}}; a group with variants has several."""
    from mapft.config import Config, PolicyConfig
    from mapft.rewards import KINDS
    from mapft.training.modes import TRAINERS

    hints = get_type_hints(Config)
    groups: dict[str, dict[str, type]] = {"run": {"": Config}}
    for field in dataclasses.fields(Config):
        if field.name == "mode":
            groups["mode"] = {f"mode={name}": mode for name, mode in TRAINERS.items()}
        elif dataclasses.is_dataclass(hints[field.name]):
            groups[field.name] = {"": hints[field.name]}
    groups["evaluation"]["evaluation.policies.NAME"] = PolicyConfig
    groups["rewards"] = {f"rewards.NAME={{kind: {name}}}": kind for name, kind in KINDS.items()}
    return groups


def _settings(kind: type, group: str) -> Iterator[str]:
    hints = get_type_hints(kind)
    for field in dataclasses.fields(kind):
        if dataclasses.is_dataclass(hints[field.name]) or (group == "run" and field.name in ("mode", "palette")):
            continue
        prefix = {"run": "", "rewards": "rewards.NAME."}.get(group, f"{getattr(kind, 'prefix', group)}.")
        facts = [f"default {_default(field)}", *_accepted(field, hints[field.name])]
        yield f"  {prefix}{field.name}"
        if field.metadata.get("help"):
            yield f"      {field.metadata['help']}"
        yield f"      {'; '.join(facts)}"


def _default(field: "dataclasses.Field[Any]") -> str:
    if field.default_factory is not dataclasses.MISSING:
        return str(field.default_factory())
    if field.default is dataclasses.MISSING:
        return "none, it must be given"
    value = field.default.value if isinstance(field.default, Enum) else field.default
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _accepted(field: "dataclasses.Field[Any]", hint: Any) -> Iterator[str]:
    """Range, choices and unit."""
    limits, types = field.metadata.get("range"), get_args(hint) or (hint,)
    choices = next((kind for kind in types if isinstance(kind, type) and issubclass(kind, Enum)), None)
    if choices:
        yield f"one of {', '.join(choice.value for choice in choices)}"
    elif limits is not None and {int, float} & set(types):
        yield str(limits)
    if field.metadata.get("unit"):
        yield f"unit: {field.metadata['unit']}"
