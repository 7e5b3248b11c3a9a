"""`mapft serve-rewards`: the scores of this machine for policies on another, as `remote` asks for them.

    GET  /            {"values": {name: unit}}
    POST /score/NAME  {"prompts": [...], "responses": [...]}  ->  {"scores": [...]}

It listens on loopback; on any other address it wants a token (MAPFT_REWARD_TOKEN) in every request. Requests are
bounded in size, number and rate, one is scored at a time, and nothing in one names a file.
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
from mapft.errors import UserError
from mapft.masking import masked_addresses
from mapft.rewards import Score
from mapft.rewards.loader import RewardModels
from mapft.rewards.remote import TOKEN
from mapft.serving import Rate, is_loopback, is_own_name

MOST_BYTES = 64 * 2**20  # of one request
MOST_ROWS = 4096  # responses in one request
MOST_REQUESTS = 16  # read or waiting at a time
MOST_CONNECTIONS = 64  # a thread each; one that says nothing for a minute is closed
LONGEST_BODY = 60.0  # seconds in which the whole of a request must have come
RATE = 200.0  # requests of one address per second, after a burst of as many


class RewardServer(ThreadingHTTPServer):
    """Serves `scores`, all loaded beforehand, until `shutdown`; the port is chosen when it is 0 (server_address)."""

    daemon_threads = True

    def __init__(self, scores: Mapping[str, Score], host: str = "127.0.0.1", port: int = 0):
        self.token = os.environ.get(TOKEN, "").strip()
        if not is_loopback(host) and not self.token:
            raise UserError(
                f"host={host} can be reached from elsewhere; set {TOKEN} to a secret, or serve on 127.0.0.1."
            )
        self.models = RewardModels(scores, Residency.auto)
        self.models.load()
        self.scoring, self.room = threading.Lock(), threading.BoundedSemaphore(MOST_REQUESTS)
        self.rate, self.connections = Rate(RATE), threading.BoundedSemaphore(MOST_CONNECTIONS)
        self.own_names_only = is_loopback(host)
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            super().__init__((host, port), _Handler)
        except (OSError, OverflowError) as error:
            raise UserError(f"{host}:{port} cannot be served on ({error}); choose another port.") from error

    def process_request(self, request: Any, client_address: Any) -> None:
        """In a thread of its own, where there is one left."""
        if self.connections.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """One connection, until it ends."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.connections.release()


class _Handler(BaseHTTPRequestHandler):
    server: RewardServer
    timeout = 60
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self._allowed():
            self._answer(200, {"values": {name: score.unit for name, score in self.server.models.scores.items()}})

    def do_POST(self) -> None:
        if not self._allowed():
            return None
        try:
            size = int(self.headers.get("Content-Length", ""))
        except ValueError:
            return self._refuse(411, "Content-Length is missing.")
        if not 0 <= size <= MOST_BYTES:
            return self._refuse(413, f"The request has {size} bytes; at most {MOST_BYTES} are taken.")
        if not self.server.room.acquire(blocking=False):
            return self._refuse(503, f"{MOST_REQUESTS} requests are waiting already; ask again later.")
        try:
            return self._score(size)
        finally:
            self.server.room.release()

    def _score(self, size: int) -> None:
        body = self._body(size)
        name = unquote(self.path).removeprefix("/score/")
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
            with self.server.scoring:
                if self._gone():
                    return None
                scores = self.server.models.score(name, prompts, responses)
        except UserError as error:
            return self._refuse(422, str(error))
        except Exception as error:  # of a model or a function of the user's; the server lives on
            return self._refuse(500, f"The score {name} failed here with {type(error).__name__}: {error}.")
        return self._answer(200, {"scores": scores.tolist()})

    def _body(self, size: int) -> bytes:
        """As many bytes; TimeoutError, which ends the connection, where they trickle for longer than LONGEST_BODY."""
        end, body = time.monotonic() + LONGEST_BODY, bytearray()
        while len(body) < size:
            self.connection.settimeout(max(end - time.monotonic(), 1e-3))
            piece = self.rfile.read1(min(size - len(body), 2**16))
            if not piece:
                break
            body += piece
        self.connection.settimeout(self.timeout)
        return bytes(body)

    def _allowed(self) -> bool:
        if self.server.own_names_only and not is_own_name(self.headers.get("Host", "")):
            self._refuse(421, "The scores are served on this machine alone, as 127.0.0.1 or localhost.")
            return False
        if self.server.rate.exceeded(self.client_address[0]):
            self._refuse(429, f"More than {RATE:g} requests a second come from your address; ask later.")
            return False
        sent = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if self.server.token and not hmac.compare_digest(sent.encode(), self.server.token.encode()):
            self._refuse(401, f"The token is missing or wrong; set {TOKEN}.")
            return False
        return True

    def _gone(self) -> bool:
        """Whether the one who asked has hung up while the request was waiting."""
        readable, _, _ = select.select([self.connection], [], [], 0)
        return bool(readable) and not self.connection.recv(1, socket.MSG_PEEK)

    def _refuse(self, status: int, sentence: str) -> None:
        self.close_connection = True
        self._answer(status, {"error": masked_addresses(sentence)})
        try:  # what is still being sent is passed over, or closing would take the answer away with it
            self.connection.shutdown(socket.SHUT_WR)
            self.connection.settimeout(1.0)
            for _ in range(64):
                if not self.connection.recv(2**16):
                    break
        except OSError:
            pass

    def _answer(self, status: int, content: dict[str, Any]) -> None:
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
        """Requests are not logged: they hold what people wrote."""
