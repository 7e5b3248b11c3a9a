"""An HTTP server of the page: its static files, and JSON answers to its requests. No request names a file.

GET  /           the page; GET /app.js, ...: its files, read once
POST /NAME       a JSON object  ->  what the handler of that name returns, or 422 {"error": sentence}
"""

import json
import socket
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any

from mapft.ui.gate import Gate
from mapft.utils.errors import UserError

TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
IDLE_TIMEOUT = 60.0  # seconds after which a silent connection is closed
MAX_CONNECTIONS = 64  # one thread each; a browser holds six
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
Handlers = Mapping[str, Callable[[dict[str, Any]], dict[str, Any]]]


class PageServer(ThreadingHTTPServer):
    """Serves the page until `shutdown`. handlers: by the path that they answer."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, host: str, port: int, handlers: Handlers, gate: Gate) -> None:
        self.handlers, self.gate, self.static = handlers, gate, static_files()
        self.paths = {"GET": set(self.static), "HEAD": set(self.static), "POST": set(handlers)}
        self.connections = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), _Handler)

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

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that the browser closed is no error."""


def static_files() -> dict[str, tuple[str, bytes]]:
    """(content type, content) by path."""
    folder = files("mapft.ui") / "static"
    found = {f"/{file.name}": (TYPES[file.name.rpartition(".")[2]], file.read_bytes()) for file in folder.iterdir()}
    return found | {"/": found["/index.html"]}


class _Handler(BaseHTTPRequestHandler):
    server: PageServer
    timeout = IDLE_TIMEOUT
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # header and content of a small answer leave at once

    def do_GET(self) -> None:
        if self._is_allowed():
            kind, content = self.server.static[self._path]
            self._reply(200, content, kind)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        if not self._is_allowed():
            return
        body = self.rfile.read(int(self.headers["Content-Length"]))
        try:
            request = json.loads(body)
            if not isinstance(request, dict):
                raise TypeError
            answer = self.server.handlers[self._path](request)
        except UserError as error:
            return self._reply_json(422, {"error": str(error)})
        except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
            return self._reply_json(400, {"error": "The request is not one that this page makes; reload the page."})
        return self._reply_json(200, answer)

    @property
    def _path(self) -> str:
        return self.path.partition("?")[0]

    def _is_allowed(self) -> bool:
        """Whether the request passes the gate; otherwise it is refused and the connection closes."""
        address = str(self.client_address[0])
        status, sentence = self.server.gate.refusal(self.command, self._path, self.headers, address, self.server.paths)
        if sentence:
            self.close_connection = True
            self._reply(status, sentence.encode(), "text/plain")
        return not sentence

    def _reply_json(self, status: int, content: dict[str, Any]) -> None:
        self._reply(status, json.dumps(content, allow_nan=False).encode(), "application/json")

    def _reply(self, status: int, content: bytes, kind: str) -> None:
        try:
            self.send_response(status)
            for name, text in HEADERS.items():
                self.send_header(name, text)
            if status == 401:
                self.send_header("WWW-Authenticate", 'Basic realm="mapft", charset="UTF-8"')
            if self.close_connection:
                self.send_header("Connection", "close")
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)
        except ConnectionError:
            self.close_connection = True

    def version_string(self) -> str:
        """No versions in the header Server."""
        return "mapft"

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not logged, because they hold private texts."""
