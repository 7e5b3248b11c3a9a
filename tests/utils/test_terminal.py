"""Output on the screen and in log files. Truth: the text that was printed."""

import re
from io import StringIO

import pytest

from mapft.utils import terminal
from mapft.utils.terminal import LogLines, make_console, print_definitions, print_table, progress

NAMES = ["kind_words", "perplexity", "humor", "helpful", "harmless", "coherence", "a_rather_long_name_of_a_value"]
NAMES += ["diversity", "positive", "brief", "keywords", "json"]
HEADINGS = ["value", "base", "target", "predicted", "95 % interval", "lambda", "95 % interval", "nats per sd"]
MARKUP = ["[bold]x[/bold]", "/x/[/v1]/m", "[/]", ":smile:", "pip install 'mapft[gguf]'"]


def printed(function, width: int = 80, **options) -> str:
    file = StringIO()
    function(make_console(width=width, file=file, **options))
    return file.getvalue()


def rows_of(names: list[str]) -> list[list[str]]:
    return [[name, "-12.345", "free", "1234.5", "[-0.123, 0.456]", "1.23e-05", "[0.000, 9.999]", ""] for name in names]


@pytest.mark.parametrize("count", [3, 6, 12])
@pytest.mark.parametrize("width", [40, 80, 85, 90, 120, 200])
def test_no_word_or_number_of_a_table_is_broken(count, width):
    rows = rows_of(NAMES[:count])
    text = printed(lambda console: print_table(console, HEADINGS, rows, title="A title", caption="A caption"), width)
    for row in rows:
        for cell in filter(None, row):
            assert cell in text
    for word in " ".join(HEADINGS[1:-1]).split():  # records have no heading for the first cell, and no line for none
        assert re.search(rf"(?<!\S){re.escape(word)}(?!\S)", text)
    assert "…" not in text
    assert text.startswith("A title\n")
    assert text.rstrip().endswith("A caption")


def test_a_table_that_fits_exactly_is_a_table_and_a_narrower_console_gets_records():
    rows = rows_of(NAMES[:3])
    wide = printed(lambda console: print_table(console, HEADINGS, rows), 200)
    width = max(len(line.rstrip()) for line in wide.splitlines())
    fitting = printed(lambda console: print_table(console, HEADINGS, rows), width + terminal.GAP)
    assert [line.rstrip() for line in fitting.splitlines()] == [line.rstrip() for line in wide.splitlines()]
    records = printed(lambda console: print_table(console, HEADINGS, rows), width - 1).splitlines()
    assert records[:3] == ["kind_words", "  base           -12.345", "  target         free"]
    assert len(records) == 3 * (len(HEADINGS) - 1)  # a cell without text has no line


def test_definitions_wrap_on_a_terminal_below_their_own_beginning_and_are_one_line_in_a_log():
    rows = [("objective/kl", "mean of a ratio in nats"), ("lam", f"see {MARKUP[1]}/{'x' * 30}")]
    on_terminal = printed(lambda console: print_definitions(console, rows), 34, force_terminal=True)
    assert on_terminal.splitlines() == [
        "objective/kl  mean of a ratio in",
        "              nats",
        "lam           see",
        f"              {MARKUP[1]}/{'x' * 30}",
    ]
    in_a_log = printed(lambda console: print_definitions(console, rows), 34)
    assert in_a_log.splitlines() == [f"objective/kl  {rows[0][1]}", f"lam           {rows[1][1]}"]


def test_first_cells_wrap_at_spaces_before_records_are_printed():
    rows = [["soup humor=0.5 helpful=0.5", "0.21", "no"], ["base", "0.00", "no"]]
    text = printed(lambda console: print_table(console, ["policy", "KL", "met"], rows), 26)
    assert [line.rstrip() for line in text.splitlines()][2:] == [
        "soup humor=0.5  0.21   no",
        "helpful=0.5",
        "base            0.00   no",
    ]


def test_columns_are_aligned_and_headings_wrap_at_spaces_only():
    headings = ["value", "gap in sd", f"within 0.1{terminal.NO_BREAK}sd"]
    lines = printed(lambda console: print_table(console, headings, [["a", "-0.5", "yes"], ["bc", "0.25", ""]]))
    assert [line.rstrip() for line in lines.splitlines()] == [
        "        gap",
        "         in  within",
        "value    sd  0.1 sd",
        "───────────────────",
        "a      -0.5     yes",
        "bc     0.25",
    ]


@pytest.mark.parametrize("text", MARKUP)
def test_text_is_printed_literally(text):
    assert printed(lambda console: console.print(text)) == f"{text}\n"
    for width in (20, 80):
        table = printed(lambda console: print_table(console, [text, text], [[text, text]], title=text), width)
        assert table.count(text) >= 3
    assert text in printed(lambda console: LogLines(console)(text, 1, 1, text))
    for options in ({"force_terminal": False}, {"force_terminal": True, "legacy_windows": False}):
        assert text in without_styles(printed(lambda console: _progress(console, text), **options))
    assert text in without_styles(printed(lambda console: _status(console, text), force_terminal=True))


def _progress(console, task: str) -> None:
    with progress(console) as update:
        update(task, 1, 2)
        update(task, 2, 2)


def _status(console, text: str) -> None:
    with console.status(text):
        pass


def without_styles(text: str) -> str:
    return re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", text)


def test_progress_in_a_log_file_is_lines_with_the_remaining_time(monkeypatch):
    """By hand: 10 of 100 steps at 0 s, 1 per second from there on; a line every 15 s, and the last one."""
    clock = iter(range(1000))
    monkeypatch.setattr(terminal.time, "monotonic", lambda: float(next(clock)))

    def steps(console):
        with progress(console) as update:
            for done in range(10, 101):
                update("scoring", done, 100)

    lines = printed(steps, force_terminal=False).splitlines()
    assert lines[:2] == ["scoring: 25 of 100, 0:01:15 left", "scoring: 40 of 100, 0:01:00 left"]
    assert lines[-1] == "scoring: 100 of 100"
    assert len(lines) == 6


def test_tasks_of_a_log_file_have_their_own_lines_and_notes():
    def steps(console):
        lines = LogLines(console)
        lines("humor", 1, 2)
        lines("helpful", 3, 3, "KL 0.20")
        lines("humor", 2, 2)

    assert printed(steps) == "helpful: 3 of 3; KL 0.20\nhumor: 2 of 2\n"


def test_progress_on_a_terminal_is_a_bar():
    text = without_styles(printed(lambda console: _progress(console, "scoring"), force_terminal=True))
    assert "━" in text
    assert "2/2" in text


def test_the_steps_of_a_policy_share_a_bar_with_the_remaining_time(monkeypatch):
    """By hand: batches of 64 s, 2 of 8 done after the first; the time of a step begins with it."""
    clock = iter(range(0, 64_000, 64))
    monkeypatch.setattr(terminal.time, "monotonic", lambda: float(next(clock)))

    def steps(console):
        with progress(console) as update:
            for done in (0, 2, 8):
                update("base policy: sampling", done, 8)
            for done in (4, 6):
                update("base policy: scoring humor", done, 8)
            update("tuned policy: sampling", 0, 8)

    text = without_styles(printed(steps, force_terminal=True, width=100))
    assert re.search(r"base policy: sampling +━.* 2/8 +0:03:12 left", text)
    first, second = text.rstrip().split("\r")[-1].splitlines()  # as they are at the end
    assert re.search(r"base policy: scoring humor +━.* 6/8 +0:01:04 left", first)
    assert re.search(r"tuned policy: sampling +━* +0/8", second)
