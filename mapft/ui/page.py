"""The page: sliders on the left, the solution on the right. Numbers come from `Board`, their HTML from `html`."""

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr
import yaml

from mapft.palette import Palette
from mapft.ui import html
from mapft.ui.board import Board
from mapft.utils.errors import UserError
from mapft.utils.files import write_text

PALETTE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")  # it becomes the name of a file
HYDRA_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")  # names of values that can be part of an override
TARGET_KINDS = {"quantile": "quantiles", "sd": "sd", "absolute": "absolute"}  # key of a palette's file by unit


class Page:
    """The page of one board. folder: where palettes are saved. command: `mapft run` with the settings of the scores."""

    def __init__(self, board: Board, folder: Path, command: str = "mapft run") -> None:
        self.board, self.folder, self.command = board, folder, command
        self.values = list(board.matrix.values)

    # ------------------------------------------------------------------ from sliders to output

    def palette(self, unit: str, ticks: list[bool], positions: list[float]) -> Palette:
        """The palette of the ticked values; UserError where none is ticked."""
        targets = self.ticked(ticks, positions)
        if not targets:
            raise UserError("The palette has no target; tick a value.")
        return self.board.palette(unit, targets)

    def ticked(self, ticks: list[bool], positions: list[float]) -> dict[str, float]:
        """Positions of the ticked values."""
        return {name: position for name, tick, position in zip(self.values, ticks, positions, strict=True) if tick}

    def show(self, unit: str, first: str, second: str, prompt: str | None, name: str, *sliders: Any) -> list[Any]:
        """All output that depends on the sliders; an error takes the place of the verdict."""
        try:
            ticks, positions = self._split(sliders)
            view = self.board.view(self.palette(unit, ticks, positions))
            return [
                html.verdict(view, self.board.matrix),
                html.levels(view, self.board),
                html.radar(self.board, view),
                html.trade_off(self.board, view, first, second),
                html.samples(self.board, view, self._prompt_id(prompt)),
                self.command_line(unit, self.ticked(ticks, positions), name),
            ]
        except UserError as error:
            return [f'<p class="verdict" role="status">{html.escape(str(error))}</p>', "", "", "", "", ""]

    def command_line(self, unit: str, targets: Mapping[str, float], name: str) -> str:
        """`mapft run` with the palette, as overrides, or as a saved file where a value's name cannot be an override."""
        if not all(map(HYDRA_KEY.fullmatch, targets)):
            return f"Save the palette, copy its file to conf/palette, and run: {self.command} palette={name}"
        overrides = ["palette=custom", f"palette.name={name if PALETTE_NAME.fullmatch(name) else 'custom'}"]
        overrides += [f"+palette.{TARGET_KINDS[unit]}.{value}={number:.10g}" for value, number in targets.items()]
        return f"{self.command} {shlex.join(overrides)}"

    # ------------------------------------------------------------------ buttons

    def nearest(self, method: str, unit: str, *sliders: Any) -> list[Any]:
        """Unit and sliders of the nearest feasible palette; absolute levels keep it exact."""
        try:
            ticks, positions = self._split(sliders)
            palette = self.palette(unit, ticks, positions)
            new = self.board.nearest(palette, method).new.targets
        except UserError as error:
            raise page_error(str(error)) from error
        levels = [new.get(name, self.board.matrix.base[name]) for name in self.values]
        moved = [self.slider(name, "absolute", level) for name, level in zip(self.values, levels, strict=True)]
        return [gr.Radio(value="absolute"), "absolute", *moved]

    def convert(self, before: str, unit: str, *sliders: Any) -> list[Any]:
        """The same levels in another unit."""
        if before == unit or None in sliders:
            return [before, *(gr.skip() for _ in self.values)]
        _, positions = self._split(sliders)
        moved = []
        for name, position in zip(self.values, positions, strict=True):
            level = self.board.palette(before, {name: position}).targets[name]
            moved.append(self.slider(name, unit, self.board.position(unit, name, level)))
        return [unit, *moved]

    def save(self, name: str, unit: str, *sliders: Any) -> tuple[str, Any]:
        """Write {folder}/{name}.yaml in the format of conf/palette."""
        try:
            ticks, positions = self._split(sliders)
            self.palette(unit, ticks, positions)
            if not PALETTE_NAME.fullmatch(name or ""):
                raise UserError(f"The name {name!r} is not a valid file name; use 1 to 64 letters, digits, - and _.")
            path = self.folder / f"{name}.yaml"
            if path.exists():
                raise UserError(f"{name}.yaml exists already; choose another name.")
        except UserError as error:
            raise page_error(str(error)) from error
        self.folder.mkdir(parents=True, exist_ok=True)
        targets = self.ticked(ticks, [float(f"{number:.10g}") for number in positions])
        write_text(path, yaml.safe_dump({"name": name, TARGET_KINDS[unit]: targets}, sort_keys=False))
        message = f"Saved as {path}; copied to conf/palette it is selected with palette={name}."
        return message, gr.Dropdown(choices=self.saved(), value=name)

    def saved(self) -> list[str]:
        """Names of the saved palettes."""
        return sorted(path.stem for path in self.folder.glob("*.yaml") if PALETTE_NAME.fullmatch(path.stem))

    def load(self, name: str | None) -> list[Any]:
        """Unit, ticks and sliders of a saved palette."""
        if not name or name not in self.saved():
            raise page_error("No saved palette is selected; choose one.")
        try:
            settings = yaml.safe_load((self.folder / f"{name}.yaml").read_text("utf-8"))
            [(unit, targets)] = [(unit, settings[kind]) for unit, kind in TARGET_KINDS.items() if settings.get(kind)]
            positions = {value: float(number) for value, number in targets.items()}
            self.board.palette(unit, positions)
        except (OSError, ValueError, AttributeError, TypeError, yaml.YAMLError, UserError) as error:
            raise page_error(f"{name}.yaml is not a palette of these values ({error}); choose another one.") from error
        ticks = [name in positions for name in self.values]
        base = {name: self.board.span(unit, name)[0] for name in self.values}
        return [unit, unit, *ticks, *(self.slider(v, unit, positions.get(v, base[v])) for v in self.values), name]

    # ------------------------------------------------------------------ sliders

    def slider(self, name: str, unit: str, position: float, **options: Any) -> gr.Slider:
        """The slider of a value in a unit; its range includes the position."""
        low, high = self.board.span(unit, name)
        low, high = min(low, position), max(high, position)
        step = (high - low) / 1000 or 1e-6
        return gr.Slider(low, max(high, low + 1e-6), value=position, step=step, label=name, **options)

    def _split(self, sliders: tuple[Any, ...]) -> tuple[list[bool], list[float]]:
        count = len(self.values)
        if None in sliders:
            raise UserError("A level is empty; give it a number.")
        return [bool(tick) for tick in sliders[:count]], [float(position) for position in sliders[count:]]

    def _prompt_id(self, prompt: Any) -> int:
        return int(prompt) if prompt is not None else -1


def page_error(sentence: str) -> gr.Error:
    """A message on the page, escaped, because Gradio shows messages as HTML."""
    return gr.Error(html.escape(sentence), print_exception=False)
