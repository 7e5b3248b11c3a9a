"""A score that another machine computes: JSON over HTTP, as `mapft serve-rewards` answers it.

POST {url}    {"prompts": [x, ...], "responses": [y, ...]}    ->    {"scores": [r, ...]}
"""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

import httpx
import numpy as np

from mapft.errors import UserError
from mapft.rewards.held import encodable

TOKEN = "MAPFT_REWARD_TOKEN"  # name of the environment variable that holds the server's token
FIRST_WAIT = 0.5  # seconds before the second try; each further wait is twice as long
PASSING = {408, 425, 429, 500, 502, 503, 504}  # answers that another try may mend


@dataclass(frozen=True)
class RemoteScore:
    """r(x, y) = sign * what the server at `url` says, asked for `batch` responses at a time.

    A connection that fails, an answer after `timeout` seconds, and an overloaded server are tried `retries` more times.
    version: part of what scores are kept under; raise it when the server's model changes. The token, if the server
    wants one, is read from MAPFT_REWARD_TOKEN.
    """

    url: str
    version: str = ""
    timeout: float = 60.0
    retries: int = 5
    batch: int = 64
    sign: float = 1.0
    unit: str = "score"
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise UserError(f"url={self.url} is no address; write http://host:port/score/NAME.")
        if self.batch < 1 or self.retries < 0 or self.timeout <= 0:
            raise UserError(
                f"batch={self.batch}, retries={self.retries}, timeout={self.timeout} do not fit; batch is at least 1, "
                "retries at least 0, timeout above 0."
            )

    @property
    def bounds(self) -> tuple[float, float]:
        low, high = (-np.inf if self.low is None else self.low), (np.inf if self.high is None else self.high)
        return (min(self.sign * low, self.sign * high), max(self.sign * low, self.sign * high))

    def load(self, name: str) -> "RemoteScorer":
        return RemoteScorer(name, self)

    def files(self) -> list[str]:
        return []

    def estimated_nbytes(self) -> int:
        return 0


class RemoteScorer:
    """Asks the server; one connection serves all batches of a call."""

    nbytes = 0

    def __init__(self, name: str, settings: RemoteScore):
        self.name, self.settings = name, settings

    def to_device(self) -> None:
        """The model is elsewhere."""

    def to_host(self) -> None:
        """The model is elsewhere."""

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        """(N,) float64."""
        token, parts = os.environ.get(TOKEN), []
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        with httpx.Client(timeout=self.settings.timeout, headers=headers) as client:
            for start in range(0, len(responses), self.settings.batch):
                rows = slice(start, start + self.settings.batch)
                parts += self._ask(client, list(map(encodable, prompts[rows])), list(map(encodable, responses[rows])))
        return self.settings.sign * np.asarray(parts, dtype=float)

    def _ask(self, client: httpx.Client, prompts: list[str], responses: list[str]) -> list[float]:
        for failed in range(self.settings.retries + 1):
            if failed:
                time.sleep(FIRST_WAIT * 2 ** (failed - 1))
            try:
                answer = client.post(self.settings.url, json={"prompts": prompts, "responses": responses})
            except httpx.TransportError as error:
                trouble = f"{type(error).__name__}: {error}"
                continue
            if answer.status_code == 200:
                return self._checked(answer, len(responses))
            trouble = f"status {answer.status_code}: {answer.text[:200].strip()}"
            if answer.status_code not in PASSING:
                break
        raise UserError(
            f"rewards.{self.name}: {self.settings.url} gave no scores after {failed + 1} tries ({trouble}); start the "
            "server again and repeat the command: what was scored is kept."
        )

    def _checked(self, answer: httpx.Response, count: int) -> list[float]:
        try:
            scores = [float(score) for score in answer.json()["scores"]]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"rewards.{self.name}: {self.settings.url} answered {answer.text[:100]!r}; it must answer "
                '{"scores": [one number per response]}.'
            ) from error
        if len(scores) != count:
            raise UserError(
                f"rewards.{self.name}: {self.settings.url} gave {len(scores)} scores for {count} responses."
            )
        return scores
