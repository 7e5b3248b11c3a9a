"""logs.jsonl and the progress of training. Truth: the log of an uninterrupted run; the printed text by hand."""

import io
import sys
from contextlib import closing
from types import SimpleNamespace

import pytest

from mapft.tracking.lines import JsonLines, LevelBar
from mapft.utils import terminal

LOGS = {"objective/kl": 0.213, "map/scores/kind_words": 1.2, "map/scores/perplexity": -2.0, "map/scores/constant": 0.0}


def state(step: int, main: bool = True) -> SimpleNamespace:
    return SimpleNamespace(global_step=step, is_world_process_zero=main, max_steps=40)


def extra_metrics() -> dict[str, float]:
    return {"map/target/a": 1.0}


def log(lines: JsonLines, first: int, last: int) -> None:
    lines.on_train_begin(None, state(first), None)
    for step in range(first + 1, last + 1):
        lines.on_log(None, state(step), None, {"objective/kl": 0.5 * step})


def test_a_resumed_run_logs_every_step_once(tmp_path):
    """Killed at step 7 in the middle of a line, resumed from the checkpoint of step 4."""
    log(JsonLines(tmp_path / "uninterrupted.jsonl", extra_metrics), 0, 10)
    resumed = tmp_path / "resumed.jsonl"
    log(JsonLines(resumed, extra_metrics), 0, 7)
    with resumed.open("a") as file:
        file.write('{"step": 8, "obj')
    log(JsonLines(resumed, extra_metrics), 4, 10)
    assert resumed.read_text() == (tmp_path / "uninterrupted.jsonl").read_text()


def test_other_processes_write_nothing(tmp_path, capfd):
    lines, bar = JsonLines(tmp_path / "logs.jsonl"), level_bar()
    for callback in (lines, bar):
        callback.on_train_begin(None, state(0, main=False), None)
        callback.on_log(None, state(1, main=False), None, {"loss": 1.0})
        callback.on_step_end(None, state(40, main=False), None)
        callback.on_train_end(None, state(40, main=False), None)
    assert not (tmp_path / "logs.jsonl").exists()
    assert capfd.readouterr() == ("", "")


def level_bar() -> LevelBar:
    targets = {"kind_words": 1.5, "perplexity": -2.5, "constant": 0.0}
    return LevelBar(targets, {"kind_words": 1.0, "perplexity": 2.0, "constant": 0.0})


def train(bar: LevelBar) -> None:
    bar.on_train_begin(None, state(20), None)
    for step in range(21, 41):
        bar.on_log(None, state(step), None, LOGS)
        bar.on_log(None, state(step), None, {"loss": 1.0})
        bar.on_step_end(None, state(step), None)
    bar.on_train_end(None, state(40), None)


@pytest.mark.parametrize("width", ["40", "80"])
def test_a_log_file_gets_one_line_with_all_names_at_a_time(monkeypatch, capfd, width):
    """Resumed at step 20, one step per second after the first: the gaps are (1.2 - 1.5) / 1 and (-2 + 2.5) / 2."""
    clock = iter(range(1000))
    monkeypatch.setattr(terminal.time, "monotonic", lambda: float(next(clock)))
    monkeypatch.setenv("COLUMNS", width)
    train(level_bar())
    assert capfd.readouterr().err.splitlines() == [
        "training: 36 of 40, 0:00:04 left; kind_words -0.30, perplexity +0.25 sd; KL 0.21",
        "training: 40 of 40; kind_words -0.30, perplexity +0.25 sd; KL 0.21",
    ]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_message_after_a_bar_has_a_line_of_its_own(monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    with closing(level_bar()) as bar:  # as in `fit`, when training fails
        bar.on_train_begin(None, state(20), None)
        bar.on_step_end(None, state(21), None)
        held = bar.training_bar  # as by the traceback
    assert held.n == 21
    assert screen.getvalue().endswith("\n")


def test_a_terminal_of_80_columns_gets_a_bar_with_all_names(monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    bar = level_bar()
    bar.on_train_begin(None, state(20), None)
    bar.training_bar.dynamic_ncols, bar.training_bar.ncols = None, 80
    bar.on_log(None, state(21), None, LOGS)
    bar.on_step_end(None, state(21), None)
    bar.training_bar.refresh()
    shown = screen.getvalue().split("\r")[-1]
    bar.on_train_end(None, state(21), None)
    assert shown.startswith("21/40 ")
    assert shown.rstrip().endswith("left, kind_words -0.30, perplexity +0.25 sd; KL 0.21")
    assert len(shown) <= 80
