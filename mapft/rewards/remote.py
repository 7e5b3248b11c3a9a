"""A score that another machine computes: JSON over HTTP, as `mapft serve-rewards` serves it.

POST {url}    {"prompts": [x, ...], "responses": [y, ...], "columns": {NAME: [...]}}    ->    {"scores": [r, ...]}

"columns" is there if the setting `columns` names any.
"""

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential

from mapft.config.fields import setting
from mapft.rewards.score import NO_COLUMNS, Columns, DeclaredScore, WithoutWeights, slice_columns
from mapft.utils.errors import UserError
from mapft.utils.net import is_loopback
from mapft.utils.text import encodable

TOKEN_VARIABLE = "MAPFT_REWARD_TOKEN"  # environment variable with the server's token
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0  # seconds before the second attempt; each further wait is twice as long
MAX_REPLY_BYTES = 2**20
TEMPORARY_STATUSES = {408, 425, 429, 500, 502, 503, 504}
REMEDIES = {
    401: f"set {TOKEN_VARIABLE} to the server's token",
    403: f"set {TOKEN_VARIABLE} to the server's token",
    404: "correct the address",
    413: "set a smaller batch",
}


@dataclass(frozen=True, kw_only=True)
class RemoteScore(DeclaredScore):
    """r(x, y) = sign * the score that the server at `url` returns.

    A failed connection, a reply that is incomplete after `timeout`, and a temporary error status (429, 503, ...) are
    retried. The token, where the server requires one, is read from the environment variable MAPFT_REWARD_TOKEN.
    """

    url: str = setting(help="Address of the value on the server: http://host:port/score/NAME.")
    version: str = setting("", "Any text; change it when the server's model changes, so that texts are scored again.")
    timeout: float = setting(60.0, "Longest wait for a reply.", unit="seconds", above=0, identity=False)
    retries: int = setting(5, "Attempts after the first one.", at_least=0, identity=False)
    batch: int = setting(64, "Responses per request.", at_least=1, identity=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            address = httpx.URL(self.url)
        except httpx.InvalidURL as error:
            raise UserError(f"url={self.url} is not valid ({error}); write http://host:port/score/NAME.") from error
        if address.scheme not in ("http", "https") or not address.host:
            raise UserError(f"url={self.url} is not valid; write http://host:port/score/NAME.")

    def load(self, name: str) -> "RemoteScorer":
        return RemoteScorer(name, self)


class RemoteScorer(WithoutWeights):
    """Sends the texts to the server; one connection serves all batches of a call."""

    def __init__(self, name: str, settings: RemoteScore):
        self.name, self.settings = name, settings
        self.token = os.environ.get(TOKEN_VARIABLE, "").strip()
        if not self.token.isascii():
            raise UserError(f"The token in {TOKEN_VARIABLE} is not ASCII, as HTTP headers require; correct it.")

    def score(self, prompts: Sequence[str], responses: Sequence[str], columns: Columns = NO_COLUMNS) -> np.ndarray:
        """(N,) float64."""
        scores: list[float] = []
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        use_proxy = not is_loopback(httpx.URL(self.settings.url).host)
        with httpx.Client(timeout=self.settings.timeout, headers=headers, trust_env=use_proxy) as client:
            for start in range(0, len(responses), self.settings.batch):
                rows = slice(start, start + self.settings.batch)
                x, y = (list(map(encodable, texts[rows])) for texts in (prompts, responses))
                content: dict[str, Any] = {"prompts": x, "responses": y}
                if columns:
                    content["columns"] = {name: list(part) for name, part in slice_columns(columns, rows).items()}
                scores += self._scores(self._reply(client, content), len(y))
        return self.settings.sign * np.asarray(scores, dtype=float)

    def _reply(self, client: httpx.Client, content: dict[str, Any]) -> bytes:
        """The body of a successful reply; UserError after the last attempt, or after an error that is not temporary."""
        retrying = Retrying(
            stop=stop_after_attempt(self.settings.retries + 1),
            wait=wait_exponential(multiplier=FIRST_WAIT, max=LONGEST_WAIT),
            retry=retry_if_exception(_is_temporary),
            reraise=True,
        )
        try:
            return retrying(self._post, client, content)
        except httpx.HTTPError as error:
            attempts = retrying.statistics["attempt_number"]
            raise UserError(
                f"rewards.{self.name}: {self.settings.url} returned no scores in {attempts} "
                f"attempt{'s' if attempts > 1 else ''} ({_reason(error)}); {_remedy(error)}."
            ) from error

    def _post(self, client: httpx.Client, content: dict[str, Any]) -> bytes:
        """One attempt, of at most `timeout` seconds and MAX_REPLY_BYTES."""
        deadline, body = time.monotonic() + self.settings.timeout, bytearray()
        with client.stream("POST", self.settings.url, json=content) as reply:
            for part in reply.iter_bytes():
                body += part
                if time.monotonic() > deadline:
                    raise httpx.ReadTimeout(f"the reply is incomplete after {self.settings.timeout:g} s")
                if len(body) > MAX_REPLY_BYTES:
                    raise UserError(
                        f"rewards.{self.name}: the reply of {self.settings.url} is longer than {MAX_REPLY_BYTES} "
                        "bytes; correct the address, or set a smaller batch."
                    )
            if reply.status_code != 200:
                raise httpx.HTTPStatusError(_error_message(bytes(body)), request=reply.request, response=reply)
        return bytes(body)

    def _scores(self, body: bytes, count: int) -> list[float]:
        try:
            scores = json.loads(body)["scores"]
            if not isinstance(scores, list) or not all(type(score) in (int, float) for score in scores):
                raise TypeError
            numbers = [float(score) for score in scores]
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise UserError(
                f"rewards.{self.name}: {self.settings.url} replied {body[:100].decode('utf-8', 'replace')!r}; it must "
                'reply {"scores": [one number per response]}.'
            ) from error
        if len(numbers) != count:
            raise UserError(
                f"rewards.{self.name}: {self.settings.url} returned {len(numbers)} scores for {count} responses; it "
                "must return one per response."
            )
        return numbers


def _is_temporary(error: BaseException) -> bool:
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code in TEMPORARY_STATUSES
    return isinstance(error, httpx.TransportError)


def _reason(error: httpx.HTTPError) -> str:
    if isinstance(error, httpx.HTTPStatusError):
        return f"status {error.response.status_code}: {error}"
    return f"{type(error).__name__}: {error}"


def _remedy(error: httpx.HTTPError) -> str:
    if isinstance(error, httpx.HTTPStatusError) and not _is_temporary(error):
        return REMEDIES.get(error.response.status_code, "correct what the server reports")
    return "start the server again and repeat the command, which continues where it stopped"


def _error_message(body: bytes) -> str:
    """The `error` of a reply of `mapft serve-rewards`, or the beginning of another server's reply."""
    try:
        return str(json.loads(body)["error"])[:200]
    except (ValueError, KeyError, TypeError, RecursionError):
        return body[:200].decode("utf-8", "replace").strip()
