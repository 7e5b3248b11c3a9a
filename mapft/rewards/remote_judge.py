"""A question that a language model on another machine answers, over OpenAI's chat format.

POST {url}/chat/completions    {"model": ..., "messages": [{"role": "user", "content": text}], ...}

answer=log_probabilities: one token, from whose 20 most likely alternatives ("top_logprobs") the log-odds follow.
answer=number: {"probability": p} by a JSON schema ("response_format"), whose log-odds are log p - log(1 - p).
"""

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from math import inf, log
from typing import Any, ClassVar

import httpx
import numpy as np

from mapft.config.fields import setting
from mapft.rewards import usage
from mapft.rewards.endpoint import Endpoint, EndpointScore
from mapft.rewards.question import QuestionScore, rows_of
from mapft.rewards.score import NO_COLUMNS, Columns, WithoutWeights
from mapft.utils.errors import UserError
from mapft.utils.text import encodable

TOKEN_VARIABLE = "MAPFT_JUDGE_TOKEN"  # environment variable with the server's API key
TOP = 20  # the most alternatives that OpenAI, and vLLM by default, return
SCHEMA = {
    "type": "object",
    "properties": {"probability": {"type": "number"}},
    "required": ["probability"],
    "additionalProperties": False,
}


class Answer(StrEnum):
    """What the log-odds are computed from."""

    log_probabilities = "log_probabilities"
    number = "number"


ANSWER_FIELDS: dict[Answer, dict[str, Any]] = {
    Answer.log_probabilities: {"max_tokens": 1, "logprobs": True, "top_logprobs": TOP},
    Answer.number: {
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "strict": True, "schema": SCHEMA},
        }
    },
}


@dataclass(frozen=True, kw_only=True)
class RemoteJudgeScore(QuestionScore, EndpointScore):
    """r(x, y) = sign * clip(log p(yes) - log p(no), -clip, clip), with p of a language model on another machine.

    log_probabilities: p(word) is the sum over those of the answer's 20 most likely first tokens that are the word, with
    or without a leading space. Where only one of the words is among them, the other has at most the probability of the
    last. number: the model writes p(yes). A response that it does not answer scores `unanswered`, which null forbids.
    The API key is read from the environment variable MAPFT_JUDGE_TOKEN.
    """

    url: str = setting(help="Address before /chat/completions: http://host:port/v1.")
    model: str = setting(help="Name of the model on the server.")
    answer: Answer = setting(Answer.log_probabilities, "The model's log-probabilities, or a number that it writes.")
    request: dict[str, Any] = setting(
        factory=dict, help="More fields of the request, for example {max_completion_tokens: 1, max_tokens: null}."
    )
    unanswered: float | None = setting(
        None, "Log-odds of a response that the model does not answer.", unit="nats", null="stop with an error"
    )
    concurrency: int = setting(8, "Requests at the same time.", at_least=1, identity=False)
    prompt_price: float = setting(0.0, "Price of a million tokens of a request.", at_least=0, identity=False)
    reply_price: float = setting(0.0, "Price of a million tokens of a reply.", at_least=0, identity=False)
    address: ClassVar[str] = "http://host:port/v1"
    token_variable: ClassVar[str] = TOKEN_VARIABLE
    if_too_long: ClassVar[str] = "shorten the template and the texts in it"

    @property
    def stored_rows(self) -> int:
        return 64

    @property
    def expected(self) -> str:
        """What answers the question, for messages."""
        if self.answer == Answer.number:
            return '{"probability": a number from 0 to 1}'
        return f"{self.yes} or {self.no}"

    def load(self, name: str) -> "RemoteJudgeScorer":
        return RemoteJudgeScorer(name, self)

    @property
    def instruction(self) -> str:
        """How to answer."""
        if self.answer == Answer.number:
            return f'Reply with JSON: {{"probability": the probability, from 0 to 1, that the answer is {self.yes}}}'
        return super().instruction

    def content(self, text: str) -> dict[str, Any]:
        """The request. A field that `request` sets to null is left out."""
        fields = {"model": self.model, "messages": [{"role": "user", "content": text}], "temperature": 0}
        fields |= ANSWER_FIELDS[self.answer] | self.request
        return {name: value for name, value in fields.items() if value is not None}


class RemoteJudgeScorer(WithoutWeights):
    """One request per response, `concurrency` at a time; the same text is asked once in a call."""

    def __init__(self, name: str, settings: RemoteJudgeScore):
        self.name, self.settings = name, settings
        self.endpoint = Endpoint(name, settings, settings.url.rstrip("/") + "/chat/completions")

    def score(self, prompts: Sequence[str], responses: Sequence[str], columns: Columns = NO_COLUMNS) -> np.ndarray:
        """(N,) float64."""
        rows = zip(prompts, responses, rows_of(columns, len(responses)), strict=True)
        texts = [encodable(self.settings.read_text(*row)) for row in rows]
        distinct = list(dict.fromkeys(texts))
        with self.endpoint.client() as client, ThreadPoolExecutor(self.settings.concurrency) as pool:
            log_odds = dict(zip(distinct, pool.map(partial(self._log_odds, client), distinct), strict=True))
        return self.settings.scores(log_odds[text] for text in texts)

    def _log_odds(self, client: httpx.Client, text: str) -> float:
        body = self.endpoint.post(client, self.settings.content(text))
        try:
            reply = json.loads(body)
            self._count(reply.get("usage") or {})
            log_odds, answer = self._answer(reply["choices"][0])
        except UserError:
            raise
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
            raise self.endpoint.invalid(body, "with a choice in the format of OpenAI's chat") from error
        if log_odds is not None:
            return log_odds
        if self.settings.unanswered is None:
            raise UserError(
                f"rewards.{self.name}: {self.settings.model} answers {answer[:80]!r} to a question that needs "
                f"{self.settings.expected}; change the question, or set rewards.{self.name}.unanswered to the log-odds "
                "of such a response."
            )
        return self.settings.unanswered

    def _answer(self, choice: Mapping[str, Any]) -> tuple[float | None, str]:
        """(log-odds, None where it does not answer; its answer, for messages)."""
        if self.settings.answer == Answer.number:
            content = choice["message"]["content"] or ""
            return log_odds_of_number(content), content
        if not choice.get("logprobs"):
            raise UserError(
                f"rewards.{self.name}: {self.endpoint.url} returns no log-probabilities; set "
                f"rewards.{self.name}.answer=number."
            )
        first = choice["logprobs"]["content"][:1]
        alternatives = [(top["token"], float(top["logprob"])) for token in first for top in token["top_logprobs"]]
        log_odds = log_odds_of_words(alternatives, self.settings.yes, self.settings.no)
        return log_odds, ", ".join(token for token, _ in alternatives)

    def _count(self, used: Mapping[str, Any]) -> None:
        prompt, completion = int(used.get("prompt_tokens") or 0), int(used.get("completion_tokens") or 0)
        cost = (prompt * self.settings.prompt_price + completion * self.settings.reply_price) / 1e6
        usage.count(self.name, prompt, completion, cost)


def log_odds_of_words(alternatives: Sequence[tuple[str, float]], yes: str, no: str) -> float | None:
    """From the first token's most likely (text, log-probability); None where neither word is among them."""
    log_p = {word: [p for token, p in alternatives if token.strip() == word] for word in (yes, no)}
    if not any(log_p.values()):
        return None
    least = min(p for _, p in alternatives)
    first, second = (float(np.logaddexp.reduce(log_p[word] or [least])) for word in (yes, no))
    return first - second


def log_odds_of_number(content: str) -> float | None:
    """log p - log(1 - p) of {"probability": p}; None for another content."""
    try:
        p = json.loads(content)["probability"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if isinstance(p, bool) or not isinstance(p, int | float) or not 0 <= p <= 1:
        return None
    return log(p) - log(1 - p) if 0 < p < 1 else inf if p else -inf
