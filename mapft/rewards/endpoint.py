"""JSON over HTTP, with retries: what the scores that another machine computes share."""

import json
import time
from dataclasses import dataclass
from typing import Any, ClassVar

import httpx

from mapft.config.fields import setting
from mapft.rewards.score import Score
from mapft.utils.errors import UserError
from mapft.utils.http_client import TEMPORARY_STATUSES, authorization, retrying
from mapft.utils.net import is_loopback

MAX_REPLY_BYTES = 2**20


@dataclass(frozen=True, kw_only=True)
class EndpointScore(Score):
    """Settings of a score that comes over HTTP."""

    url: str = setting(help="Address of the server.")
    version: str = setting("", "Any text; change it when the server's model changes, so that texts are scored again.")
    timeout: float = setting(60.0, "Longest wait for a reply.", unit="seconds", above=0, identity=False)
    retries: int = setting(5, "Attempts after the first one.", at_least=0, identity=False)
    address: ClassVar[str]  # an example of `url`, for messages
    token_variable: ClassVar[str]  # environment variable with the server's token
    if_too_long: ClassVar[str]  # what to do about a request or a reply that is too long, for messages

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            address = httpx.URL(self.url)
        except httpx.InvalidURL as error:
            raise UserError(f"url={self.url} is not valid ({error}); write {self.address}.") from error
        if address.scheme not in ("http", "https") or not address.host:
            raise UserError(f"url={self.url} is not valid; write {self.address}.")


class Endpoint:
    """One address of a server. name: of the value, for messages."""

    def __init__(self, name: str, settings: EndpointScore, url: str):
        self.name, self.settings, self.url = name, settings, url
        self.headers = authorization(settings.token_variable)

    def client(self) -> httpx.Client:
        """Connections to the server, for one thread or several."""
        use_proxy = not is_loopback(httpx.URL(self.url).host)
        return httpx.Client(timeout=self.settings.timeout, headers=self.headers, trust_env=use_proxy)

    def post(self, client: httpx.Client, content: dict[str, Any]) -> bytes:
        """The body of a successful reply; UserError after the last attempt, or after an error that is not temporary."""
        attempt = retrying(self.settings.retries, _is_temporary)
        try:
            return attempt(self._attempt, client, content)
        except httpx.HTTPError as error:
            attempts = attempt.statistics["attempt_number"]
            raise UserError(
                f"rewards.{self.name}: {self.url} returned no scores in {attempts} "
                f"attempt{'s' if attempts > 1 else ''} ({_reason(error)}); {self._remedy(error)}."
            ) from error

    def invalid(self, body: bytes, need: str) -> UserError:
        """The error for a reply that is not what it must be."""
        shown = repr(body[:100].decode("utf-8", "replace"))
        return UserError(f"rewards.{self.name}: {self.url} replied {shown}; it must reply {need}.")

    def _attempt(self, client: httpx.Client, content: dict[str, Any]) -> bytes:
        """One attempt, of at most `timeout` seconds and MAX_REPLY_BYTES."""
        deadline, body = time.monotonic() + self.settings.timeout, bytearray()
        with client.stream("POST", self.url, json=content) as reply:
            for part in reply.iter_bytes():
                body += part
                if time.monotonic() > deadline:
                    raise httpx.ReadTimeout(f"the reply is incomplete after {self.settings.timeout:g} s")
                if len(body) > MAX_REPLY_BYTES:
                    raise UserError(
                        f"rewards.{self.name}: the reply of {self.url} is longer than {MAX_REPLY_BYTES} bytes; correct "
                        f"the address, or {self.settings.if_too_long}."
                    )
            if reply.status_code != 200:
                raise httpx.HTTPStatusError(_error_message(bytes(body)), request=reply.request, response=reply)
        return bytes(body)

    def _remedy(self, error: httpx.HTTPError) -> str:
        if not isinstance(error, httpx.HTTPStatusError) or _is_temporary(error):
            return "start the server again and repeat the command, which continues where it stopped"
        token = f"set {self.settings.token_variable} to the server's token"
        remedies = {401: token, 403: token, 404: "correct the address", 413: self.settings.if_too_long}
        return remedies.get(error.response.status_code, "correct what the server reports")


def _is_temporary(error: BaseException) -> bool:
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code in TEMPORARY_STATUSES
    return isinstance(error, httpx.TransportError)


def _reason(error: httpx.HTTPError) -> str:
    if isinstance(error, httpx.HTTPStatusError):
        return f"status {error.response.status_code}: {error}"
    return f"{type(error).__name__}: {error}"


def _error_message(body: bytes) -> str:
    """The `error` of a reply, or its `message` as OpenAI sends it, or the beginning of another reply."""
    try:
        error = json.loads(body)["error"]
        return str(error["message"] if isinstance(error, dict) and "message" in error else error)[:200]
    except (ValueError, KeyError, TypeError, RecursionError):
        return body[:200].decode("utf-8", "replace").strip()
