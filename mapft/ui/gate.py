"""What stands in front of the page's server, because gradio's own does more for whoever reaches it than the page asks.

Unasked, gradio takes uploads of any size onto the disk, serves files, and forwards requests. Here a request passes if
it is one that the page makes, small, and not too frequent; on loopback also only under one of this machine's own names,
so that no site in a browser can take the page for its own.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from mapft.serving import Rate, is_own_name

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
FOLDERS = ("/assets/", "/static/", "/gradio_api/heartbeat/")  # of the package, and one that only waits
MOST_BYTES = 2**20  # of one request
RATE = 500.0  # requests of one address per second, after a burst of as many; the page loads about 60 files
MOST_UNDERWAY = 256  # requests; an open page holds two
LOGINS = 3.0  # tries of a password, likewise

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Scope]]
Send = Callable[[Scope], Awaitable[None]]


class Gate:
    """ASGI middleware. loopback: whether the page is served to this machine alone."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]], loopback: bool) -> None:
        self.app, self.loopback = app, loopback
        self.rate, self.logins, self.underway = Rate(RATE), Rate(LOGINS), 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer with a sentence."""
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        status, sentence = self._refusal(scope) if scope["type"] == "http" else (403, "The page has no such thing.")
        if not sentence:
            self.underway += 1
            try:
                return await self.app(scope, receive, send)
            finally:
                self.underway -= 1
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        return await send({"type": "http.response.body", "body": sentence.encode()})

    def _refusal(self, scope: Scope) -> tuple[int, str]:
        """(status, sentence); no sentence for a request that may pass."""
        path, method, headers = scope["path"], scope["method"], dict(scope["headers"])
        address = scope["client"][0] if scope["client"] else ""
        if self.rate.exceeded(address) or (path == "/login" and self.logins.exceeded(address)):
            return 429, "Too many requests come from your address; ask later."
        if self.underway >= MOST_UNDERWAY:
            return 503, f"{MOST_UNDERWAY} requests are under way already; ask again later."
        if self.loopback and not is_own_name(headers.get(b"host", b"").decode("latin-1")):
            return 421, "The page is served on this machine alone, as 127.0.0.1 or localhost."
        asked = "GET" if method == "HEAD" else method
        inside = asked == "GET" and path.startswith(FOLDERS) and ".." not in path
        if not inside and path not in PATHS.get(asked, set()):
            return 404, "The page has no such thing."
        size = headers.get(b"content-length", b"0" if asked == "GET" else b"")
        if not size.isdigit() or b"transfer-encoding" in headers:
            return 411, "Content-Length is missing."
        if int(size) > MOST_BYTES:
            return 413, f"The request has {int(size)} bytes; at most {MOST_BYTES} are taken."
        return 0, ""
