"""Output on a terminal or in a log file: consoles, progress, tables.

Text is printed literally: paths, names and prompts may contain square brackets, which rich would read as markup.
"""

import textwrap
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.status import Status
from rich.table import Table
from rich.text import Text

NO_BREAK = "\N{NO-BREAK SPACE}"  # in a heading, keeps two words on one line; printed as a space
GAP = 1  # spaces between two columns of a table
UNLIMITED = 10_000  # columns
LEAST_TEXT = 20  # characters of a line that a wrapped meaning has at least
LOG_SECONDS = 15.0  # between two lines of one task in a log file


class Update(Protocol):
    """How progress is reported: `done` of `total` steps of a task."""

    def __call__(self, task: str, done: int, total: int) -> None: ...


class LiteralConsole(Console):
    """A console without markup, also in `status`, where rich reads markup whatever the console's setting is."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, highlight=False, emoji=False, force_jupyter=False, **options)

    def status(self, status: RenderableType, **options: Any) -> Status:
        """A spinner beside the text."""
        return super().status(Text(status) if isinstance(status, str) else status, **options)


def make_console(**options: Any) -> LiteralConsole:
    """A console that prints text literally. options: of rich.console.Console."""
    return LiteralConsole(**options)


# ---------------------------------------------------------------------- progress


@contextmanager
def progress(console: Console) -> Iterator[Update]:
    """Inside, call update(task, done, total): a bar on a terminal, a line every LOG_SECONDS in a log file.

    Tasks "NAME: STEP" with the same NAME share a bar, which begins again with each step.
    """
    if not console.is_terminal:
        yield LogLines(console)
        return
    columns = [
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[left]}", markup=False),
    ]
    with Progress(*columns, console=console) as bars:
        ids: dict[str, TaskID] = {}
        remaining = RemainingTime()

        def update(task: str, done: int, total: int) -> None:
            name = task.partition(":")[0]
            if name not in ids:
                ids[name] = bars.add_task(task, total=total, left="")
            left = remaining(task, done, total, time.monotonic())
            bars.update(ids[name], description=task, completed=done, total=total, left=left, refresh=True)

        yield update


class RemainingTime:
    """The remaining time of each task at its mean speed since its first call, whose `done` is where it started."""

    def __init__(self) -> None:
        self.first: dict[str, tuple[float, int]] = {}  # (time, done) by task

    def __call__(self, task: str, done: int, total: int, now: float) -> str:
        """For example "0:01:15 left" at the time `now`; empty where it is unknown or 0."""
        start, done_before = self.first.setdefault(task, (now, done))
        if not done_before < done < total:
            return ""
        return f"{clock((now - start) * (total - done) / (done - done_before))} left"


class LogLines:
    """Progress as lines of plain text: one per task every LOG_SECONDS, and one when it is complete.

    note: printed after the remaining time.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._remaining = RemainingTime()
        self._printed: dict[str, float] = {}  # time by task

    def __call__(self, task: str, done: int, total: int, note: str = "") -> None:
        now = time.monotonic()
        left = self._remaining(task, done, total, now)
        if done < total and now - self._printed.setdefault(task, now) < LOG_SECONDS:
            return
        self._printed[task] = now
        self.console.print(f"{task}: {done} of {total}{left and f', {left}'}{note and f'; {note}'}", soft_wrap=True)


def clock(seconds: float) -> str:
    """For example 1:02:03."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"


# ---------------------------------------------------------------------- tables


def print_table(
    console: Console, headings: Sequence[str], rows: Sequence[Sequence[str]], *, title: str = "", caption: str = ""
) -> None:
    """A table in which no word or number is broken; the first column is left-aligned, the others right-aligned.

    Headings wrap at spaces, but not at NO_BREAK, and so do the first cells of a table wider than the console. Where
    that is not enough, it is printed as records: the first cell of a row, and below it the others with their headings.
    """
    if title:
        console.print(title, soft_wrap=True)
    table = _table(headings, rows)
    if (excess := _width(console, table) - console.width) > 0:
        room = max(len(row[0]) for row in rows) - excess if rows else 0
        table = _table(headings, [[_wrapped(row[0], room), *row[1:]] for row in rows])
    if _width(console, table) <= console.width:
        console.print(table)
    else:
        _print_records(console, headings, rows)
    if caption:
        console.print(caption, soft_wrap=True)


def print_definitions(console: Console, rows: Sequence[tuple[str, str]]) -> None:
    """Names and what they mean, side by side: on a terminal the meaning is wrapped, in a log each is one line."""
    column = max(len(name) for name, _ in rows) + 2
    for name, meaning in rows:
        text = f"{name:<{column}}{meaning}"
        if console.is_terminal:
            width = max(console.width, column + LEAST_TEXT)
            text = textwrap.fill(
                text, width, subsequent_indent=" " * column, break_long_words=False, break_on_hyphens=False
            )
        console.print(text, soft_wrap=True)


def _width(console: Console, table: Table) -> int:
    return Measurement.get(console, console.options.update(width=UNLIMITED), table).maximum


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, GAP, 0, 0), pad_edge=False, show_edge=False)
    for number, heading in enumerate(headings):
        longest = max([len(line) for row in rows for line in row[number].splitlines()], default=0)
        table.add_column(_wrapped(heading, longest), justify="right" if number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def _print_records(console: Console, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    width = max(map(len, headings[1:]), default=0)
    for first, *cells in rows:
        console.print(first, soft_wrap=True)
        for heading, cell in zip(headings[1:], cells, strict=True):
            if cell:
                console.print(f"  {heading.replace(NO_BREAK, ' '):<{width}}  {cell}", soft_wrap=True)


def _wrapped(heading: str, width: int) -> str:
    """The heading in lines of at most `width` characters where its words allow it."""
    lines: list[str] = []
    for word in heading.split(" "):
        if lines and len(lines[-1]) + 1 + len(word) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return "\n".join(lines).replace(NO_BREAK, " ")
