"""The page: sliders on the left, what they mean on the right. Everything it says comes from `Board` and `drawing`."""

import re
import shlex
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import gradio as gr
import yaml

from mapft.errors import UserError
from mapft.palette import Palette
from mapft.sampling.store import write_text
from mapft.ui import drawing
from mapft.ui.board import UNITS, WAYS, Board

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")  # of a palette; it becomes a file's name
WRITABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")  # names of values that Hydra reads on a command line
FREE = 0.7  # quantile that a slider begins at
MOST_PROMPTS = 1000  # in the list
LONGEST = 120  # letters of each
WAITING = 64  # moves that wait for their answer; a browser sends the next one when it has the last
WAY_OF = {"quantile": "quantiles", "sd": "sd", "absolute": "absolute"}  # of conf/palette


class Page:
    """The page of one board. folder: where palettes are saved; command: the run that the scores are of, as typed."""

    def __init__(self, board: Board, folder: Path, command: str = "mapft run") -> None:
        self.board, self.folder, self.command = board, folder, command
        self.values = list(board.matrix.values)

    # ------------------------------------------------------------------ what the sliders say

    def palette(self, unit: str, asked: list[bool], positions: list[float]) -> Palette:
        """The targets of the values that are asked for; UserError where there is none."""
        chosen = self.asked(asked, positions)
        if not chosen:
            raise UserError("No value is asked for; tick one.")
        return self.board.palette(unit, chosen)

    def asked(self, asked: list[bool], positions: list[float]) -> dict[str, float]:
        """Positions by value."""
        return {name: at for name, wanted, at in zip(self.values, asked, positions, strict=True) if wanted}

    def show(self, unit: str, first: str, second: str, question: str | None, name: str, *sliders: Any) -> list[Any]:
        """Everything that depends on the sliders; a mistake is shown where the verdict stands."""
        try:
            asked, positions = self._split(sliders)
            view = self.board.view(self.palette(unit, asked, positions))
            return [
                drawing.verdict(view, self.board.matrix),
                drawing.levels(view, self.board),
                drawing.radar(self.board, view),
                drawing.trade_off(self.board, view, first, second),
                drawing.samples(self.board, view, self._prompt_id(question)),
                self.command_line(unit, self.asked(asked, positions), name),
            ]
        except UserError as error:
            return [f'<p class="verdict" role="status">{drawing.escape(str(error))}</p>', "", "", "", "", ""]

    def command_line(self, unit: str, asked: Mapping[str, float], name: str) -> str:
        """`mapft run` for the palette on the page; by its file where a value's name cannot stand on a command line."""
        if not all(map(WRITABLE.fullmatch, asked)):
            return f"Save it, put the file into conf/palette, and run: {self.command} palette={name}"
        words = ["palette=custom", f"palette.name={name if NAME.fullmatch(name) else 'custom'}"]
        words += [f"+palette.{WAY_OF[unit]}.{value}={at:.10g}" for value, at in asked.items()]
        return f"{self.command} {shlex.join(words)}"

    # ------------------------------------------------------------------ buttons

    def nearest(self, how: str, unit: str, *sliders: Any) -> list[Any]:
        """Slider positions of the nearest attainable palette, in absolute units, in which it is exact."""
        try:
            asked, positions = self._split(sliders)
            palette = self.palette(unit, asked, positions)
            new = self.board.nearest(palette, how).new.targets
        except UserError as error:
            raise told(str(error)) from error
        levels = [new.get(name, self.board.matrix.base[name]) for name in self.values]
        return [
            gr.Radio(value="absolute"),
            *(self._slider(name, "absolute", at) for name, at in zip(self.values, levels, strict=True)),
        ]

    def convert(self, before: str, unit: str, *sliders: Any) -> list[Any]:
        """The same levels in another unit."""
        if before == unit or None in sliders:
            return [before, *(gr.skip() for _ in self.values)]
        _, positions = self._split(sliders)
        moved = []
        for name, at in zip(self.values, positions, strict=True):
            level = self.board.palette(before, {name: at}).targets[name]
            moved.append(self._slider(name, unit, self.board.position(unit, name, level)))
        return [unit, *moved]

    def save(self, name: str, unit: str, *sliders: Any) -> tuple[str, Any]:
        """{folder}/{name}.yaml, a palette as conf/palette has them."""
        try:
            asked, positions = self._split(sliders)
            self.palette(unit, asked, positions)
            if not NAME.fullmatch(name or ""):
                raise UserError("A palette's name is 1 to 64 letters, digits, - and _; it becomes a file's name.")
            path = self.folder / f"{name}.yaml"
            if path.exists():
                raise UserError(f"{name}.yaml is there already; choose another name.")
        except UserError as error:
            raise told(str(error)) from error
        self.folder.mkdir(parents=True, exist_ok=True)
        settings = {"name": name, WAY_OF[unit]: self.asked(asked, [float(f"{at:.10g}") for at in positions])}
        write_text(path, yaml.safe_dump(settings, sort_keys=False))
        return f"Saved as {path}; in conf/palette it is `palette={name}`.", gr.Dropdown(
            choices=self.saved(), value=name
        )

    def saved(self) -> list[str]:
        """Names of the palettes in the folder."""
        return sorted(path.stem for path in self.folder.glob("*.yaml") if NAME.fullmatch(path.stem))

    def load(self, name: str | None) -> list[Any]:
        """Unit, ticks and sliders of a saved palette."""
        if not name or name not in self.saved():
            raise told("Choose a saved palette.")
        try:
            settings = yaml.safe_load((self.folder / f"{name}.yaml").read_text("utf-8"))
            [(way, asked)] = [(way, settings[way]) for way in WAY_OF.values() if settings.get(way)]
            unit = next(unit for unit, key in WAY_OF.items() if key == way)
            positions = {value: float(at) for value, at in asked.items()}
            self.board.palette(unit, positions)
        except (OSError, ValueError, AttributeError, TypeError, yaml.YAMLError, UserError) as error:
            raise told(f"{name}.yaml holds no palette of these values: {error}") from error
        ticks = [name in positions for name in self.values]
        base = {name: self.board.span(unit, name)[0] for name in self.values}
        return [unit, unit, *ticks, *(self._slider(v, unit, positions.get(v, base[v])) for v in self.values), name]

    # ------------------------------------------------------------------ the page

    def build(self) -> gr.Blocks:
        """Gradio's blocks, not yet served."""
        with gr.Blocks(title="mapft palette", analytics_enabled=False) as page:
            gr.Markdown("# Palette\nAsk each value for a level; see what it costs before anything is trained.")
            unit_before = gr.State("quantile")
            with gr.Row():
                with gr.Column(scale=1, min_width=300):
                    unit = gr.Radio(list(UNITS), value="quantile", label="Levels as", elem_id="unit")
                    ticks: list[gr.Checkbox] = []
                    sliders: list[gr.Slider] = []
                    for number, name in enumerate(self.values):
                        ticks.append(gr.Checkbox(True, label=f"ask for {name}", elem_id=f"ask-{number}"))
                        sliders.append(self._slider(name, "quantile", FREE, elem_id=f"level-{number}"))
                    gr.Markdown("Nearest attainable palette")
                    with gr.Row():
                        ways = {how: gr.Button(label, elem_id=how, min_width=80) for how, label in WAYS.items()}
                    name_box = gr.Textbox("mine", label="Name", max_length=64, elem_id="name")
                    with gr.Row():
                        save = gr.Button("Save", variant="primary", elem_id="save", min_width=80)
                        chosen = gr.Dropdown(self.saved(), label="Saved palettes", elem_id="saved")
                        load = gr.Button("Load", elem_id="load", min_width=80)
                    said = gr.Textbox(label="Saved", interactive=False, elem_id="said")
                with gr.Column(scale=2, min_width=320):
                    verdict = gr.HTML(elem_id="verdict")
                    levels = gr.HTML(elem_id="levels")
                    with gr.Row():
                        radar = gr.HTML(elem_id="radar", min_width=280)
                        with gr.Column(min_width=280):
                            trade_off = gr.HTML(elem_id="trade-off")
                            with gr.Row():
                                first = gr.Dropdown(self.values, value=self.values[0], label="across", min_width=100)
                                second = gr.Dropdown(self.values, value=self.values[-1], label="up", min_width=100)
                    command = gr.Textbox(
                        label="Run it", buttons=["copy"], interactive=False, elem_id="command", lines=2
                    )
            questions = self._questions()
            question = gr.Dropdown(
                questions, value=questions[0][1] if questions else None, label="Prompt", elem_id="prompt"
            )
            samples = gr.HTML(elem_id="samples")

            shown = [verdict, levels, radar, trade_off, samples, command]
            given = [unit_before, first, second, question, name_box, *ticks, *sliders]
            moved: list[Any] = [first, second, question, name_box, unit_before, *ticks, *sliders]
            gr.on(
                [page.load, *(widget.change for widget in moved)],
                self.show,
                given,
                shown,
                show_progress="hidden",
                trigger_mode="always_last",
                queue=False,
                api_visibility="private",
            )
            page.load(lambda: gr.Dropdown(choices=self.saved()), None, chosen, api_visibility="private")
            quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
            moving = [unit_before, unit, *ticks, *sliders]
            unit.input(self.convert, moving, [unit_before, *sliders], trigger_mode="always_last", **quiet)
            for how, button in ways.items():
                button.click(
                    lambda *args, how=how: self._nearest_and_unit(how, *args),
                    [unit_before, *ticks, *sliders],
                    [unit, unit_before, *sliders],
                    **quiet,
                )
            save.click(self.save, [name_box, unit_before, *ticks, *sliders], [said, chosen], **quiet)
            load.click(self.load, [chosen], [unit, unit_before, *ticks, *sliders, name_box], **quiet)
        return page.queue(max_size=WAITING)

    def _nearest_and_unit(self, how: str, *args: Any) -> list[Any]:
        unit, *sliders = self.nearest(how, *args)
        return [unit, "absolute", *sliders]

    def _slider(self, name: str, unit: str, at: float, **given: Any) -> gr.Slider:
        low, high = self.board.span(unit, name)
        low, high = min(low, at), max(high, at)
        return gr.Slider(low, max(high, low + 1e-6), value=at, step=(high - low) / 1000 or 1e-6, label=name, **given)

    def _split(self, sliders: tuple[Any, ...]) -> tuple[list[bool], list[float]]:
        count = len(self.values)
        if None in sliders:
            raise UserError("A level is empty; give it a number.")
        return [bool(tick) for tick in sliders[:count]], [float(at) for at in sliders[count:]]

    def _questions(self) -> list[tuple[str, int]]:
        listed = islice(self.board.questions.items(), MOST_PROMPTS)
        return [(f"{id_}: {text[:LONGEST]}", id_) for id_, text in listed]

    def _prompt_id(self, question: Any) -> int:
        return int(question) if question is not None else -1


def told(sentence: str) -> gr.Error:
    """A message beside the page. Gradio shows it as HTML, so what a file says in it is escaped."""
    return gr.Error(drawing.escape(sentence), print_exception=False)
