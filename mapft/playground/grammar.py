"""The grammar of the embedded world: prompts, replies, and the label of a reply for each human value.

    task -> prompt ("User: How do I ...?\nAssistant:")
    task -> plan -> phrases -> reply (" Try to ... . Wear gloves."), label = sum of the phrases' grades

The words live in world/*.toml; this module only puts them together (`sample`) and takes them apart again (`read`).
"""

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import product
from random import Random
from typing import Any

VALUES = ("humor", "helpful", "harmless")
MAX_WORDS = 18
STEP_WORDS = ("Then ", "Also ")
WAY_OUT_WORDS = ("Better ", "Rather ")

Grades = tuple[float, ...]


@dataclass(frozen=True)
class Phrase:
    """A piece of a reply; `source` names the idea, so that no reply says the same thing twice."""

    text: str
    source: str
    grades: Grades


@dataclass(frozen=True)
class Task:
    """A request and the phrases that only replies to it use."""

    kind: str
    request: str
    groups: Mapping[str, tuple[Phrase, ...]]


@dataclass(frozen=True)
class Prompt:
    """`text` is a complete model input; `kind` is "everyday" or "dubious"."""

    text: str
    kind: str
    task: Task


@dataclass(frozen=True)
class Reply:
    """`text` starts with a space, so that prompt + reply is the plain concatenation; `labels` follow VALUES."""

    text: str
    labels: Grades


def wordings(template: str) -> list[str]:
    """Every text of a template: "{rub|put} oil" -> ["rub oil", "put oil"]."""
    pieces = [piece.split("|") for piece in re.split(r"[{}]", template)]
    return ["".join(choice) for choice in product(*pieces)]


def _graded(templates: list[str], grades: list[list[float]], frames: tuple[str, ...] = ("{}",)) -> tuple[Phrase, ...]:
    return tuple(
        Phrase(frame.format(text), template, tuple(grade))
        for template, grade in zip(templates, grades, strict=True)
        for text in wordings(template)
        for frame in frames
    )


def _task(kind: str, entry: Mapping[str, Any], grades: Mapping[str, Any]) -> Task:
    tips = entry["tips"]
    groups = {
        "tip": _graded(tips, grades["tip"]),
        "step": _graded(tips, grades["step"], tuple(f" {word}{{}}." for word in STEP_WORDS)),
        "joke": _graded([entry["joke"]], grades["joke"], (" {}",)),
    }
    if kind == "everyday":
        groups["caution"] = _graded([entry["caution"]], grades["caution"], (" {}",))
    else:
        groups["warning"] = _graded([entry["warning"]], grades["warning"], (" {}",))
        groups["honest"] = _graded(entry["honest"], grades["honest"])
        groups["way_out"] = _graded(entry["honest"], grades["way_out"], tuple(f" {w}{{}}." for w in WAY_OUT_WORDS))
    return Task(kind, entry["request"], groups)


class Grammar:
    """All prompts of the world, and the distribution of replies to each."""

    def __init__(self, style: Mapping[str, Any], tasks: Mapping[str, list[Mapping[str, Any]]]) -> None:
        self.plans = {kind: style[kind]["plan"] for kind in tasks}
        self.slots: Mapping[str, Mapping[str, float]] = style["slots"]
        self.shared = {
            name: tuple(Phrase(text, text, tuple(grades)) for text, *grades in phrases)
            for name, phrases in style["phrases"].items()
        }
        self.tasks = [_task(kind, entry, style["graded"][kind]) for kind, entries in tasks.items() for entry in entries]
        self.prompts = [
            Prompt(f"User: {frame.format(request=task.request, context=context)}\nAssistant:", task.kind, task)
            for task in self.tasks
            for frame in style["prompts"]["frames"]
            for context in style["prompts"]["contexts"]
        ]

    def sample(self, task: Task, rng: Random) -> Reply:
        """Draw one reply to `task`, of at most MAX_WORDS words."""
        reply = self._draw(task, rng)
        while len(reply.text.split()) > MAX_WORDS:
            reply = self._draw(task, rng)
        return reply

    def _draw(self, task: Task, rng: Random) -> Reply:
        plans = self.plans[task.kind]
        (plan,) = rng.choices(plans, [plan["weight"] for plan in plans])
        said: list[Phrase] = []
        for slot in plan["slots"]:
            (name,) = rng.choices(list(self.slots[slot]), list(self.slots[slot].values()))
            said.append(rng.choice([phrase for phrase in self._group(task, name) if _is_new(phrase, said)]))
        return _reply(said)

    def read(self, task: Task, text: str) -> Reply | None:
        """The reply to `task` whose text this is, with its labels; None if the grammar cannot say it."""
        body = text.removeprefix(" ")
        for start in {body, body[:1].lower() + body[1:]}:
            for plan in self.plans[task.kind]:
                for said in self._splits(task, plan["slots"], start, []):
                    if _reply(said).text == text:
                        return _reply(said)
        return None

    def _splits(self, task: Task, slots: list[str], rest: str, said: list[Phrase]) -> Iterator[list[Phrase]]:
        if not slots:
            if not rest:
                yield said
            return
        for name in self.slots[slots[0]]:
            for phrase in self._group(task, name):
                if rest.startswith(phrase.text) and _is_new(phrase, said):
                    yield from self._splits(task, slots[1:], rest[len(phrase.text) :], [*said, phrase])

    def _group(self, task: Task, name: str) -> tuple[Phrase, ...]:
        return task.groups[name] if name in task.groups else self.shared[name]


def _is_new(phrase: Phrase, said: list[Phrase]) -> bool:
    return not phrase.source or all(phrase.source != other.source for other in said)


def _reply(said: list[Phrase]) -> Reply:
    text = "".join(phrase.text for phrase in said)
    labels = tuple(round(sum(grades), 3) for grades in zip(*(phrase.grades for phrase in said), strict=True))
    return Reply(f" {text[:1].upper()}{text[1:]}", labels)


@cache
def load_grammar() -> Grammar:
    """The grammar of world/*.toml."""
    folder = files(__package__) / "world"
    read = {name: tomllib.loads((folder / f"{name}.toml").read_text("utf-8")) for name in _FILES}
    return Grammar(read["style"], {kind: read[kind]["task"] for kind in ("everyday", "dubious")})


_FILES = ("style", "everyday", "dubious")
