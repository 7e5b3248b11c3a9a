"""A filter in front of Gradio's server, which also accepts uploads of any size, serves files, and forwards requests.

A request passes if it is one that the page makes, small, and not too frequent. On a loopback address its Host header
must also name this machine, so that no web site can reach the page through the user's browser (DNS rebinding).
"""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from mapft.utils.net import RateLimiter, is_loopback_header

PATHS = {
    "GET": {
        "/",
        "/config",
        "/theme.css",
        "/favicon.ico",
        "/manifest.json",
        "/login_check",
        "/gradio_api/app_id",
        "/gradio_api/queue/data",
        "/gradio_api/startup-events",
    },
    "POST": {"/login", "/gradio_api/queue/join", "/gradio_api/cancel", "/gradio_api/run/predict"},
}
FOLDERS = ("/assets/", "/static/", "/gradio_api/heartbeat/")  # files of the package, and an endless empty response
MAX_BYTES = 2**20  # of one request
RATE = 500.0  # requests per second of one address, and the size of a burst; the page loads about 60 files
MAX_OPEN_REQUESTS = 256  # an open page holds two
LOGIN_RATE = 3.0  # the same for passwords
NOT_FOUND = "Not found; this server serves the palette page only."

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Scope]]
Send = Callable[[Scope], Awaitable[None]]


class Gate:
    """The filter, as ASGI middleware. loopback: whether the page is served on a loopback address."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]], loopback: bool) -> None:
        self.app, self.loopback = app, loopback
        self.rate, self.logins, self.open_requests = RateLimiter(RATE), RateLimiter(LOGIN_RATE), 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward the request, or refuse it with a sentence."""
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        status, sentence = self._refusal(scope) if scope["type"] == "http" else (403, NOT_FOUND)
        if not sentence:
            self.open_requests += 1
            try:
                return await self.app(scope, receive, send)
            finally:
                self.open_requests -= 1
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        return await send({"type": "http.response.body", "body": sentence.encode()})

    def _refusal(self, scope: Scope) -> tuple[int, str]:
        """(status, sentence); an empty sentence for a request that passes."""
        path, method, headers = scope["path"], scope["method"], dict(scope["headers"])
        address = scope["client"][0] if scope["client"] else ""
        if not self.rate.allow(address) or (path == "/login" and not self.logins.allow(address)):
            return 429, "Too many requests from your address; try again later."
        if self.open_requests >= MAX_OPEN_REQUESTS:
            return 503, f"{MAX_OPEN_REQUESTS} requests are open; try again later."
        if self.loopback and not is_loopback_header(headers.get(b"host", b"").decode("latin-1")):
            return 421, "The page is served on this machine only; open it as 127.0.0.1 or localhost."
        method = "GET" if method == "HEAD" else method
        in_folder = method == "GET" and path.startswith(FOLDERS) and ".." not in path
        if not in_folder and path not in PATHS.get(method, set()):
            return 404, NOT_FOUND
        size = headers.get(b"content-length", b"0" if method == "GET" else b"")
        if not size.isdigit() or b"transfer-encoding" in headers:
            return 411, "Content-Length is missing."
        if int(size) > MAX_BYTES:
            return 413, f"The request has {int(size)} bytes; the limit is {MAX_BYTES}."
        return 0, ""
