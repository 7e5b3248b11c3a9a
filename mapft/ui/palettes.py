"""Saved palettes, and the command that trains one."""

import re
import shlex
from collections.abc import Mapping
from pathlib import Path

import yaml

from mapft.utils.errors import UserError
from mapft.utils.files import write_text

PALETTE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")  # it becomes the name of a file
HYDRA_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")  # names of values that can be part of an override
TARGET_KINDS = {"quantile": "quantiles", "sd": "sd", "absolute": "absolute"}  # key of a palette's file by unit


def command_line(run: str, unit: str, targets: Mapping[str, float], name: str) -> str:
    """`mapft run` with the palette, as overrides, or as a saved file where a value's name cannot be an override."""
    if not all(map(HYDRA_KEY.fullmatch, targets)):
        return f"Save the palette, copy its file to conf/palette, and run: {run} palette={name}"
    overrides = ["palette=custom", f"palette.name={name if PALETTE_NAME.fullmatch(name) else 'custom'}"]
    overrides += [f"+palette.{TARGET_KINDS[unit]}.{value}={number:.10g}" for value, number in targets.items()]
    return f"{run} {shlex.join(overrides)}"


class SavedPalettes:
    """The palettes in a folder, in the format of conf/palette."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def names(self) -> list[str]:
        """In alphabetical order."""
        return sorted(path.stem for path in self.folder.glob("*.yaml") if PALETTE_NAME.fullmatch(path.stem))

    def save(self, name: str, unit: str, targets: Mapping[str, float]) -> Path:
        """Write {name}.yaml, which must not exist yet."""
        if not PALETTE_NAME.fullmatch(name):
            raise UserError(f"The name {name!r} is not a valid file name; use 1 to 64 letters, digits, - and _.")
        path = self.folder / f"{name}.yaml"
        if path.exists():
            raise UserError(f"{name}.yaml exists already; choose another name.")
        rounded = {value: float(f"{number:.10g}") for value, number in targets.items()}
        return write_text(path, yaml.safe_dump({"name": name, TARGET_KINDS[unit]: rounded}, sort_keys=False))

    def load(self, name: str) -> tuple[str, dict[str, float]]:
        """(unit, targets) of a saved palette."""
        if name not in self.names():
            raise UserError("No saved palette is selected; choose one.")
        try:
            settings = yaml.safe_load((self.folder / f"{name}.yaml").read_text("utf-8"))
            [(unit, targets)] = [(unit, settings[kind]) for unit, kind in TARGET_KINDS.items() if settings.get(kind)]
            return unit, {value: float(number) for value, number in targets.items()}
        except (OSError, ValueError, AttributeError, TypeError, yaml.YAMLError) as error:
            raise UserError(f"{name}.yaml is not a palette of these values ({error}); choose another one.") from error
