"""`mapft serve-rewards`: scores of this machine for policies on another, which requests them as rewards of kind remote.

    GET  /            {"values": {name: unit}}
    POST /score/NAME  {"prompts": [...], "responses": [...], "columns": {NAME: [...]}}  ->  {"scores": [...]}

"columns" has the columns of the data that the score reads, and can be left out where it reads none.

On a loopback address the server accepts only requests whose Host is loopback. On any other address every request needs
the token of MAPFT_REWARD_TOKEN. Requests are bounded in size, number, duration and rate, and are scored one at a time.
No request names a file.
"""

import hmac
import json
import os
import select
import socket
import threading
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

from mapft.config import Residency
from mapft.rewards import Score
from mapft.rewards.loader import RewardModels
from mapft.rewards.remote import TOKEN_VARIABLE
from mapft.utils.errors import UserError
from mapft.utils.net import RateLimiter, is_loopback, is_loopback_header
from mapft.utils.redact import redact_urls

MAX_REQUEST_BYTES = 64 * 2**20
MAX_RESPONSES = 4096  # in one request
MAX_PENDING = 16  # requests that are being read or wait to be scored
MAX_CONNECTIONS = 64  # one thread each
IDLE_TIMEOUT = 60.0  # seconds after which a silent connection is closed
BODY_TIMEOUT = 60.0  # seconds for the body of a request
MAX_RATE = 200.0  # requests per second and address, after a burst of as many


class RewardServer(ThreadingHTTPServer):
    """Serves `scores` until `shutdown`; all are loaded first. Port 0 chooses a free port (see server_address)."""

    daemon_threads = True

    def __init__(self, scores: Mapping[str, Score], host: str = "127.0.0.1", port: int = 0):
        self.token = os.environ.get(TOKEN_VARIABLE, "").strip()
        self.loopback = is_loopback(host)
        if not self.loopback and not self.token:
            raise UserError(
                f"host={host} is reachable from other machines, so the server needs a token; set {TOKEN_VARIABLE}, or "
                "serve on 127.0.0.1."
            )
        self.models = RewardModels(scores, Residency.auto)
        self.models.load()
        self.scoring, self.pending = threading.Lock(), threading.BoundedSemaphore(MAX_PENDING)
        self.rate, self.connections = RateLimiter(MAX_RATE), threading.BoundedSemaphore(MAX_CONNECTIONS)
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            super().__init__((host, port), _Handler)
        except (OSError, OverflowError) as error:
            raise UserError(f"The server cannot listen on {host}:{port} ({error}); choose another port.") from error

    def process_request(self, request: Any, client_address: Any) -> None:
        """Handle the connection in its own thread, or close it where MAX_CONNECTIONS are open."""
        if self.connections.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Handle one connection until it closes."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.connections.release()


class _Handler(BaseHTTPRequestHandler):
    server: RewardServer
    timeout = IDLE_TIMEOUT
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self._is_allowed():
            self._reply(200, {"values": {name: score.unit for name, score in self.server.models.scores.items()}})

    def do_POST(self) -> None:
        if not self._is_allowed():
            return None
        try:
            size = int(self.headers.get("Content-Length", ""))
        except ValueError:
            return self._reject(411, "Content-Length is missing.")
        if not 0 <= size <= MAX_REQUEST_BYTES:
            return self._reject(413, f"The request has {size} bytes; at most {MAX_REQUEST_BYTES} are accepted.")
        if not self.server.pending.acquire(blocking=False):
            return self._reject(503, f"{MAX_PENDING} requests are waiting; try again later.")
        try:
            return self._score(self._read_body(size))
        finally:
            self.server.pending.release()

    def _score(self, body: bytes) -> None:
        name = unquote(self.path).removeprefix("/score/")
        if name not in self.server.models.scores:
            return self._reject(404, f"The value is unknown; use one of {', '.join(self.server.models.scores)}.")
        try:
            prompts, responses, columns = _content(body)
        except (ValueError, KeyError, TypeError, RecursionError):
            return self._reject(
                400,
                "The body must be {prompts: [texts], responses: [as many texts], columns: {NAME: [as many values]}}, "
                "where columns can be left out.",
            )
        if len(responses) > MAX_RESPONSES:
            return self._reject(413, f"The request has {len(responses)} responses; at most {MAX_RESPONSES} are scored.")
        try:
            with self.server.scoring:
                if self._client_disconnected():
                    return None
                scores = self.server.models.score(name, prompts, responses, columns)
        except UserError as error:
            return self._reject(422, str(error))
        except Exception as error:  # of a model or of the user's function; the server continues
            return self._reject(500, f"The score {name} failed with {type(error).__name__}: {error}.")
        return self._reply(200, {"scores": scores.tolist()})

    def _read_body(self, size: int) -> bytes:
        """`size` bytes; TimeoutError, which closes the connection, after BODY_TIMEOUT."""
        deadline, body = time.monotonic() + BODY_TIMEOUT, bytearray()
        while len(body) < size:
            self.connection.settimeout(max(deadline - time.monotonic(), 1e-3))
            part = self.rfile.read1(min(size - len(body), 2**16))
            if not part:
                break
            body += part
        self.connection.settimeout(self.timeout)
        return bytes(body)

    def _is_allowed(self) -> bool:
        """Whether the request passes the Host, rate and token checks; otherwise it is rejected."""
        if self.server.loopback and not is_loopback_header(self.headers.get("Host", "")):
            self._reject(421, "The server is reachable from its own machine only, as 127.0.0.1 or localhost.")
            return False
        if not self.server.rate.allow(self.client_address[0]):
            self._reject(429, f"Your address sends more than {MAX_RATE:g} requests per second; try again later.")
            return False
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if self.server.token and not hmac.compare_digest(token.encode(), self.server.token.encode()):
            self._reject(401, f"The token is missing or wrong; set {TOKEN_VARIABLE}.")
            return False
        return True

    def _client_disconnected(self) -> bool:
        """Whether the client has closed the connection, for example after its own timeout."""
        readable, _, _ = select.select([self.connection], [], [], 0)
        return bool(readable) and not self.connection.recv(1, socket.MSG_PEEK)

    def _reject(self, status: int, message: str) -> None:
        """Reply with an error and close the connection."""
        self.close_connection = True
        self._reply(status, {"error": redact_urls(message)})
        try:  # read what the client still sends: closing with unread input would discard the reply
            self.connection.shutdown(socket.SHUT_WR)
            self.connection.settimeout(1.0)
            for _ in range(64):
                if not self.connection.recv(2**16):
                    break
        except OSError:
            pass

    def _reply(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        try:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        except ConnectionError:
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not logged, because they hold private texts."""


def _content(body: bytes) -> tuple[list[str], list[str], dict[str, list[Any]]]:
    """(prompts, responses, columns) of a request."""
    content = json.loads(body)
    prompts, responses, columns = content["prompts"], content["responses"], content.get("columns", {})
    lists = [prompts, responses, *columns.values()] if isinstance(columns, dict) else [None]
    if not all(isinstance(each, list) and len(each) == len(responses) for each in lists):
        raise ValueError
    if not all(isinstance(text, str) for text in [*prompts, *responses]):
        raise ValueError
    return prompts, responses, columns
