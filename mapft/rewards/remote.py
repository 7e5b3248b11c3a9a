"""A score that another machine computes: JSON over HTTP, as `mapft serve-rewards` answers it.

POST {url}    {"prompts": [x, ...], "responses": [y, ...]}    ->    {"scores": [r, ...]}
"""

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

import httpx
import numpy as np

from mapft.errors import UserError
from mapft.rewards.held import encodable
from mapft.serving import is_loopback

TOKEN = "MAPFT_REWARD_TOKEN"  # name of the environment variable that holds the server's token
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0  # seconds before the second try; each further wait is twice as long
MOST_BYTES = 2**20  # of one answer
PASSING = {408, 425, 429, 500, 502, 503, 504}  # answers that another try may mend
AGAIN = "start the server again and repeat the command, which goes on where it was"
REMEDY = {
    401: f"set {TOKEN} to the server's token",
    403: f"set {TOKEN} to the server's token",
    404: "correct the address",
    413: "ask for a smaller batch",
}


@dataclass(frozen=True)
class RemoteScore:
    """r(x, y) = sign * what the server at `url` says, asked for `batch` responses at a time.

    A connection that fails, an answer that is not whole after `timeout` seconds, and an overloaded server are tried
    `retries` more times. version: part of what scores are kept under; raise it when the server's model changes. The
    token, if the server wants one, is read from MAPFT_REWARD_TOKEN.
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
        try:
            address = httpx.URL(self.url)
        except httpx.InvalidURL as error:
            raise UserError(f"url={self.url} is no address ({error}); write http://host:port/score/NAME.") from error
        if address.scheme not in ("http", "https") or not address.host:
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
        self.token = os.environ.get(TOKEN, "").strip()
        if not self.token.isascii():
            raise UserError(f"The token in {TOKEN} holds a character that is not ASCII, which no header can carry.")

    def to_device(self) -> None:
        """The model is elsewhere."""

    def to_host(self) -> None:
        """The model is elsewhere."""

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        """(N,) float64."""
        parts: list[float] = []
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        proxied = not is_loopback(httpx.URL(self.settings.url).host)
        with httpx.Client(timeout=self.settings.timeout, headers=headers, trust_env=proxied) as client:
            for start in range(0, len(responses), self.settings.batch):
                rows = slice(start, start + self.settings.batch)
                parts += self._ask(client, list(map(encodable, prompts[rows])), list(map(encodable, responses[rows])))
        return self.settings.sign * np.asarray(parts, dtype=float)

    def _ask(self, client: httpx.Client, prompts: list[str], responses: list[str]) -> list[float]:
        remedy = AGAIN
        for failed in range(self.settings.retries + 1):
            if failed:
                time.sleep(min(FIRST_WAIT * 2 ** (failed - 1), LONGEST_WAIT))
            try:
                status, body = self._post(client, {"prompts": prompts, "responses": responses})
            except httpx.TransportError as error:
                trouble = f"{type(error).__name__}: {error}"
                continue
            if status == 200:
                return self._checked(body, len(responses))
            trouble = f"status {status}: {_sentence(body)}"
            if status not in PASSING:
                remedy = REMEDY.get(status, "mend what the server says")
                break
        raise UserError(
            f"rewards.{self.name}: {self.settings.url} gave no scores after {failed + 1} tries ({trouble}); {remedy}."
        )

    def _post(self, client: httpx.Client, content: dict[str, list[str]]) -> tuple[int, bytes]:
        """Status and body, all of it within `timeout` seconds and MOST_BYTES."""
        end, body = time.monotonic() + self.settings.timeout, bytearray()
        with client.stream("POST", self.settings.url, json=content) as answer:
            for part in answer.iter_bytes():
                body += part
                if time.monotonic() > end:
                    raise httpx.ReadTimeout(f"no whole answer within {self.settings.timeout:g} s")
                if len(body) > MOST_BYTES:
                    raise UserError(f"rewards.{self.name}: {self.settings.url} answers more than {MOST_BYTES} bytes.")
            return answer.status_code, bytes(body)

    def _checked(self, body: bytes, count: int) -> list[float]:
        try:
            scores = json.loads(body)["scores"]
            if not isinstance(scores, list) or not all(type(score) in (int, float) for score in scores):
                raise TypeError
            numbers = [float(score) for score in scores]
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise UserError(
                f"rewards.{self.name}: {self.settings.url} answered {body[:100].decode('utf-8', 'replace')!r}; it must "
                'answer {"scores": [one number per response]}.'
            ) from error
        if len(numbers) != count:
            raise UserError(
                f"rewards.{self.name}: {self.settings.url} gave {len(numbers)} scores for {count} responses."
            )
        return numbers


def _sentence(body: bytes) -> str:
    """What our server says in {"error": ...}, or the beginning of what another one says."""
    text = body[:200].decode("utf-8", "replace").strip()
    try:
        return str(json.loads(body)["error"])[:200]
    except (ValueError, KeyError, TypeError, RecursionError):
        return text
