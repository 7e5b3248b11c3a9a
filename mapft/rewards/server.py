"""`mapft serve-rewards`: the scores of this machine for policies on another, as `remote` asks for them.

    GET  /            {"values": {name: unit}}
    POST /score/NAME  {"prompts": [...], "responses": [...]}  ->  {"scores": [...]}

It listens on loopback; on any other address it wants a token (MAPFT_REWARD_TOKEN) in every request. Requests are
bounded in size, one is scored at a time, and nothing in one names a file.
"""

import hmac
import ipaddress
import json
import os
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from mapft.config import Residency
from mapft.errors import UserError
from mapft.rewards import Score
from mapft.rewards.loader import RewardModels
from mapft.rewards.remote import TOKEN

MOST_BYTES = 64 * 2**20  # of one request
MOST_ROWS = 4096  # responses in one request


class RewardServer(ThreadingHTTPServer):
    """Serves `scores` until `shutdown`; the address is chosen when port is 0 (see server_address)."""

    daemon_threads = True

    def __init__(self, scores: Mapping[str, Score], host: str = "127.0.0.1", port: int = 0):
        self.token = os.environ.get(TOKEN, "")
        if not _is_loopback(host) and not self.token:
            raise UserError(
                f"host={host} can be reached from elsewhere; set {TOKEN} to a secret, or serve on 127.0.0.1."
            )
        self.models = RewardModels(scores, Residency.auto)
        self.lock = threading.Lock()
        try:
            super().__init__((host, port), _Handler)
        except OSError as error:
            raise UserError(f"{host}:{port} cannot be served on ({error.strerror}); choose another port.") from error


class _Handler(BaseHTTPRequestHandler):
    server: RewardServer
    timeout = 60
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self._allowed():
            self._answer(200, {"values": {name: score.unit for name, score in self.server.models.scores.items()}})

    def do_POST(self) -> None:
        try:
            size = int(self.headers.get("Content-Length", ""))
        except ValueError:
            return self._refuse(411, "Content-Length is missing.")
        if not 0 <= size <= MOST_BYTES:
            return self._refuse(413, f"The request has {size} bytes; at most {MOST_BYTES} are taken.")
        body = self.rfile.read(size)
        if not self._allowed():
            return None
        name = self.path.removeprefix("/score/")
        if name not in self.server.models.scores:
            return self._refuse(
                404, f"There is no value here by that name; use {', '.join(self.server.models.scores)}."
            )
        try:
            asked = json.loads(body)
            prompts, responses = asked["prompts"], asked["responses"]
            texts = isinstance(prompts, list) and isinstance(responses, list) and len(prompts) == len(responses)
            if not texts or not all(isinstance(text, str) for text in [*prompts, *responses]):
                raise ValueError
        except (ValueError, KeyError, TypeError, RecursionError):
            return self._refuse(400, "The body must be {prompts: [texts], responses: [as many texts]}.")
        if len(responses) > MOST_ROWS:
            return self._refuse(413, f"The request has {len(responses)} responses; at most {MOST_ROWS} are taken.")
        try:
            with self.server.lock:
                scores = self.server.models.score(name, prompts, responses)
        except UserError as error:
            return self._refuse(422, str(error))
        return self._answer(200, {"scores": scores.tolist()})

    def _allowed(self) -> bool:
        sent = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if self.server.token and not hmac.compare_digest(sent.encode(), self.server.token.encode()):
            self._refuse(401, f"The token is missing or wrong; set {TOKEN}.")
            return False
        return True

    def _refuse(self, status: int, sentence: str) -> None:
        self.close_connection = True
        self._answer(status, {"error": sentence})

    def _answer(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not logged: they hold what people wrote."""


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
