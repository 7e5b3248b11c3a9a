"""The widgets of the page, and which function each one calls."""

from dataclasses import dataclass
from itertools import islice
from typing import Any

import gradio as gr

from mapft.ui.board import NEAREST, UNITS
from mapft.ui.page import Page

INITIAL_UNIT, INITIAL_QUANTILE = "quantile", 0.7  # of every slider
MAX_PROMPTS = 1000  # in the list
MAX_PROMPT_CHARACTERS = 120  # in the list
MAX_QUEUED = 64  # events; a browser sends the next one when it has the result of the last
PRIVATE: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


@dataclass(frozen=True)
class Controls:
    """Left column. shown_unit: the unit that the sliders have, while `unit` is the one that they shall have."""

    shown_unit: gr.State
    unit: gr.Radio
    ticks: list[gr.Checkbox]
    sliders: list[gr.Slider]
    nearest: dict[str, gr.Button]
    name: gr.Textbox
    save: gr.Button
    saved: gr.Dropdown
    load: gr.Button
    message: gr.Textbox


@dataclass(frozen=True)
class Outputs:
    """Right column and samples, with the choices of what they show. shown: in the order of `Page.show`."""

    shown: list[Any]
    first: gr.Dropdown
    second: gr.Dropdown
    prompt: gr.Dropdown


def build(page: Page) -> gr.Blocks:
    """The page as Gradio blocks, not yet served."""
    with gr.Blocks(title="mapft palette", analytics_enabled=False) as blocks:
        gr.Markdown("# Palette\nSet a target level for each value and see its KL before anything is trained.")
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                controls = _controls(page)
            with gr.Column(scale=2, min_width=320):
                shown, first, second = _solution(page.values)
        listed = islice(page.board.prompt_texts.items(), MAX_PROMPTS)
        prompts = [(f"{prompt_id}: {text[:MAX_PROMPT_CHARACTERS]}", prompt_id) for prompt_id, text in listed]
        prompt = gr.Dropdown(prompts, value=prompts[0][1] if prompts else None, label="Prompt", elem_id="prompt")
        shown.insert(-1, gr.HTML(elem_id="samples"))
        _connect(page, blocks, controls, Outputs(shown, first, second, prompt))
    return blocks.queue(max_size=MAX_QUEUED)


def _controls(page: Page) -> Controls:
    shown_unit = gr.State(INITIAL_UNIT)
    unit = gr.Radio(list(UNITS), value=INITIAL_UNIT, label="Unit of the levels", elem_id="unit")
    ticks: list[gr.Checkbox] = []
    sliders: list[gr.Slider] = []
    for number, name in enumerate(page.values):
        ticks.append(gr.Checkbox(True, label=f"target for {name}", elem_id=f"target-{number}"))
        sliders.append(page.slider(name, INITIAL_UNIT, INITIAL_QUANTILE, elem_id=f"level-{number}"))
    gr.Markdown("Nearest feasible palette")
    with gr.Row():
        nearest = {method: gr.Button(label, elem_id=method, min_width=80) for method, label in NEAREST.items()}
    name_box = gr.Textbox("mine", label="Name", max_length=64, elem_id="name")
    with gr.Row():
        save = gr.Button("Save", variant="primary", elem_id="save", min_width=80)
        saved = gr.Dropdown(page.saved(), label="Saved palettes", elem_id="saved")
        load = gr.Button("Load", elem_id="load", min_width=80)
    message = gr.Textbox(label="Saved", interactive=False, elem_id="message")
    return Controls(shown_unit, unit, ticks, sliders, nearest, name_box, save, saved, load, message)


def _solution(values: list[str]) -> tuple[list[Any], gr.Dropdown, gr.Dropdown]:
    """Verdict, levels, radar, trade-off and command; the two values of the trade-off."""
    verdict = gr.HTML(elem_id="verdict")
    levels = gr.HTML(elem_id="levels")
    with gr.Row():
        radar = gr.HTML(elem_id="radar", min_width=280)
        with gr.Column(min_width=280):
            trade_off = gr.HTML(elem_id="trade-off")
            with gr.Row():
                first = gr.Dropdown(values, value=values[0], label="horizontal", min_width=100)
                second = gr.Dropdown(values, value=values[-1], label="vertical", min_width=100)
    command = gr.Textbox(label="Command of the run", buttons=["copy"], interactive=False, elem_id="command", lines=2)
    return [verdict, levels, radar, trade_off, command], first, second


def _connect(page: Page, blocks: gr.Blocks, controls: Controls, outputs: Outputs) -> None:
    palette = [controls.shown_unit, *controls.ticks, *controls.sliders]
    selections = [outputs.first, outputs.second, outputs.prompt, controls.name]
    triggers: list[Any] = [*selections, *palette]
    gr.on(
        [blocks.load, *(widget.change for widget in triggers)],
        page.show,
        [controls.shown_unit, *selections, *controls.ticks, *controls.sliders],
        outputs.shown,
        trigger_mode="always_last",
        queue=False,
        **PRIVATE,
    )
    blocks.load(lambda: gr.Dropdown(choices=page.saved()), None, controls.saved, api_visibility="private")
    controls.unit.input(
        page.convert,
        [controls.shown_unit, controls.unit, *controls.ticks, *controls.sliders],
        [controls.shown_unit, *controls.sliders],
        trigger_mode="always_last",
        **PRIVATE,
    )
    for method, button in controls.nearest.items():
        button.click(
            lambda *inputs, method=method: page.nearest(method, *inputs),
            palette,
            [controls.unit, controls.shown_unit, *controls.sliders],
            **PRIVATE,
        )
    controls.save.click(page.save, [controls.name, *palette], [controls.message, controls.saved], **PRIVATE)
    loaded = [controls.unit, controls.shown_unit, *controls.ticks, *controls.sliders, controls.name]
    controls.load.click(page.load, [controls.saved], loaded, **PRIVATE)
