"""A question about prompt and response that a language model answers with Yes or No, as a score."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from string import Formatter
from typing import Any

import numpy as np

from mapft.config.fields import require, setting
from mapft.rewards.score import Columns, Score
from mapft.utils.errors import UserError
from mapft.utils.text import encodable

TEMPLATE = "Prompt:\n{prompt}\n\nResponse:\n{response}\n\nQuestion: {question}\n{instruction}"
OWN_FIELDS = (
    "prompt",
    "response",
    "question",
    "instruction",
)  # of the templates; every other field is a column of the data


@dataclass(frozen=True, kw_only=True)
class QuestionScore(Score):
    """r(x, y) = sign * clip(log p(yes | question) - log p(no | question), -clip, clip), the log-odds in nats.

    p(yes): the probability that the answer begins with a token that is the text `yes`, after a space or not. Fields of
    `template` are {prompt}, {response}, {question} and {instruction} (to answer with `yes` or `no`); others, and fields
    of `question`, are columns of the data: texts as they are, other values as JSON.
    """

    question: str = setting(help="A question about the response whose answer is Yes or No; Yes is better.")
    template: str = setting(TEMPLATE, "What the judge reads; its fields are those of the default, and columns.")
    yes: str = setting("Yes", "The answer that raises the score.")
    no: str = setting("No", "The other answer.")
    clip: float = setting(10.0, "Largest log-odds, and minus the smallest.", unit="nats", above=0)
    unit = "nats"

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in ("question", "instruction"):
            need = f"a question without {{{field}}}"
            require(field not in _fields("question", self.question), "question", self.question, need)
        for field in ("response", "question"):
            need = f"a template with {{{field}}}"
            require(field in _fields("template", self.template), "template", repr(self.template), need)
        for name in ("yes", "no"):
            answer = getattr(self, name)
            require(bool(answer) and answer == answer.strip(), name, repr(answer), "a word without spaces around it")
        require(self.yes != self.no, "no", self.no, "another word than yes")

    @property
    def raw_bounds(self) -> tuple[float, float]:
        return -self.clip, self.clip

    @property
    def instruction(self) -> str:
        """How to answer."""
        return f"Answer with {self.yes} or {self.no}.\nAnswer:"

    def reads(self, available: Collection[str]) -> list[str]:
        names = [*_fields("question", self.question), *_fields("template", self.template)]
        return list(dict.fromkeys(name for name in names if name not in OWN_FIELDS))

    def read_text(self, prompt: str, response: str, row: Mapping[str, str]) -> str:
        """The template with its fields; row: columns as texts."""
        fields = {"prompt": prompt, "response": response, **row}
        question = self.question.format(**fields)
        return self.template.format(question=question, instruction=self.instruction, **fields)

    def scores(self, log_odds: Iterable[float]) -> np.ndarray:
        """(N,) float64, after the sign."""
        return self.sign * np.clip(np.fromiter(log_odds, dtype=float), *self.raw_bounds)


def rows_of(columns: Columns, count: int) -> list[dict[str, str]]:
    """The columns row by row: texts as they are, other values as JSON."""
    texts = {name: [_as_text(value) for value in values] for name, values in columns.items()}
    return [{name: values[number] for name, values in texts.items()} for number in range(count)]


def _as_text(value: Any) -> str:
    return encodable(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _fields(name: str, template: str) -> Sequence[str]:
    """Names of the template's fields; UserError for one that is not a plain {name}."""
    try:
        fields = [field for _, field, *_ in Formatter().parse(template) if field is not None]
        template.format_map(dict.fromkeys(fields, ""))
    except (KeyError, IndexError, ValueError, AttributeError, TypeError) as error:
        raise UserError(
            f"{name}={template!r} is not a valid template ({error}); its fields are {{prompt}}, {{response}}, "
            "{question}, {instruction} and columns of the data, and a brace is written twice."
        ) from error
    return fields
