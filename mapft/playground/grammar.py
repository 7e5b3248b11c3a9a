"""The grammar of the embedded world: prompts, replies, and the label of a reply for each human value.

    task -> prompt ("User: How do I ...?\nAssistant:")
    task -> plan -> phrases -> reply (" Try to ... . Wear gloves."), label = sum of the phrases' grades

The texts are in world/*.toml; this module assembles replies (`sample`) and parses them (`read`).
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

Grades = tuple[float, ...]


@dataclass(frozen=True)
class Phrase:
    """A piece of a reply and its share of the reply's labels, in the order of VALUES."""

    text: str
    grades: Grades


@dataclass(frozen=True)
class Task:
    """A request, the tone of the replies to it, and the phrases that no other task uses."""

    kind: str
    request: str
    tone: str
    groups: Mapping[str, tuple[Phrase, ...]]


@dataclass(frozen=True)
class Prompt:
    """A question as a user types it; `kind` is "everyday" or "dubious"."""

    question: str
    kind: str
    task: Task

    @property
    def text(self) -> str:
        """A complete input of the playground's policy."""
        return f"User: {self.question}\nAssistant:"


@dataclass(frozen=True)
class Reply:
    """`text` starts with a space, so that prompt + reply is the plain concatenation; `labels` follow VALUES."""

    text: str
    labels: Grades


class Grammar:
    """All prompts of the world, and the distribution of replies to each."""

    def __init__(self, style: Mapping[str, Any], tasks: Mapping[str, list[Mapping[str, Any]]]) -> None:
        self.plans = {kind: {plan["name"]: plan for plan in style[kind]["plan"]} for kind in tasks}
        self.slots: Mapping[str, Mapping[str, float]] = style["slots"]
        self.tones: Mapping[str, Mapping[str, float]] = style["tones"]
        self.shared = {name: tuple(map(_phrase, rows)) for name, rows in style["phrases"].items()}
        self.tasks = [_task(kind, entry, style["own"][kind]) for kind, entries in tasks.items() for entry in entries]
        self.prompts = [
            Prompt(frame.format(request=task.request, context=context), task.kind, task)
            for task in self.tasks
            for frame in style["prompts"]["frames"]
            for context in style["prompts"]["contexts"]
        ]

    def sample(self, task: Task, rng: Random) -> Reply:
        """Sample a reply to `task`, of at most MAX_WORDS words."""
        reply = self._sample(task, rng)
        while len(reply.text.split()) > MAX_WORDS:
            reply = self._sample(task, rng)
        return reply

    def read(self, task: Task, text: str) -> Reply | None:
        """The reply to `task` with this text, and its labels; None for a text that the grammar does not generate."""
        body = text.removeprefix(" ")
        for start in (body, body[:1].lower() + body[1:]):
            for plan in self.plans[task.kind].values():
                for phrases in self._splits(task, plan["slots"], start):
                    if _reply(phrases).text == text:
                        return _reply(phrases)
        return None

    def _sample(self, task: Task, rng: Random) -> Reply:
        plans = self.plans[task.kind]
        plan = self._choose(task, {name: plan["weight"] for name, plan in plans.items()}, rng)
        groups = [self._choose(task, self.slots[slot], rng) for slot in plans[plan]["slots"]]
        return _reply([rng.choice(self._group(task, name)) for name in groups])

    def _choose(self, task: Task, weights: Mapping[str, float], rng: Random) -> str:
        tone = self.tones[task.tone]
        (name,) = rng.choices(list(weights), [weight * tone.get(name, 1.0) for name, weight in weights.items()])
        return name

    def _splits(self, task: Task, slots: list[str], rest: str) -> Iterator[list[Phrase]]:
        """Every list of phrases that fills the slots with the beginning of `rest`."""
        if not slots:
            yield []
        for name in self.slots[slots[0]] if slots else ():
            for phrase in self._group(task, name):
                if rest.startswith(phrase.text):
                    for others in self._splits(task, slots[1:], rest.removeprefix(phrase.text)):
                        yield [phrase, *others]

    def _group(self, task: Task, name: str) -> tuple[Phrase, ...]:
        return task.groups[name] if name in task.groups else self.shared[name]


def wordings(template: str) -> list[str]:
    """Every text of a template: "{rub|put} oil" -> ["rub oil", "put oil"]."""
    pieces = [piece.split("|") for piece in re.split(r"[{}]", template)]
    return ["".join(choice) for choice in product(*pieces)]


@cache
def load_grammar() -> Grammar:
    """The grammar of world/*.toml."""
    folder = files(__package__) / "world"
    style, everyday, dubious = (
        tomllib.loads((folder / f"{name}.toml").read_text("utf-8")) for name in ("style", "everyday", "dubious")
    )
    return Grammar(style, {"everyday": everyday["task"], "dubious": dubious["task"]})


def _phrase(row: list[Any]) -> Phrase:
    text, *grades = row
    return Phrase(text, tuple(grades))


def _task(kind: str, entry: Mapping[str, Any], own: Mapping[str, list[list[Any]]]) -> Task:
    """Put the task's texts into the frames of style.toml: tip i into frame i, every other text into all frames."""
    groups = {}
    for name, rows in own.items():
        frames = [_phrase(row) for row in rows]
        pairs = zip(entry[name], frames, strict=True) if name == "tips" else product([entry[name]], frames)
        groups[name] = tuple(
            Phrase(frame.text.format(text), frame.grades) for template, frame in pairs for text in wordings(template)
        )
    return Task(kind, entry["request"], entry["tone"], groups)


def _reply(phrases: list[Phrase]) -> Reply:
    text = "".join(phrase.text for phrase in phrases)
    labels = tuple(round(sum(grades), 3) for grades in zip(*(phrase.grades for phrase in phrases), strict=True))
    return Reply(f" {text[:1].upper()}{text[1:]}", labels)
