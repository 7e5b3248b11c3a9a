"""Which requests the page's server answers: those that the page makes, small, and not too frequent.

On a loopback address the Host header must also name this machine, so that no web site can reach the page through the
user's browser (DNS rebinding). A POST must be JSON, which a web site cannot send to another one.
"""

import hmac
from base64 import b64encode
from collections.abc import Collection, Mapping
from email.message import Message

from mapft.utils.net import RateLimiter, is_loopback_header

MAX_BYTES = 2**20  # of one request
RATE = 500.0  # requests per second of one address, and the size of a burst
LOGIN_RATE = 3.0  # the same for wrong passwords
NOT_FOUND = "Not found; this server serves the palette page only."


class Gate:
    """The filter. loopback: whether the page is served on a loopback address. login: user:password, or empty."""

    def __init__(self, loopback: bool, login: str = "") -> None:
        self.loopback, self.login = loopback, b"Basic " + b64encode(login.encode()) if login else b""
        self.rate, self.logins = RateLimiter(RATE), RateLimiter(LOGIN_RATE)

    def refusal(
        self, method: str, path: str, headers: Message, address: str, paths: Mapping[str, Collection[str]]
    ) -> tuple[int, str]:
        """(status, sentence); an empty sentence for a request that passes. paths: those that exist, by method."""
        if not self.rate.allow(address):
            return 429, "Too many requests from your address; try again later."
        if self.loopback and not is_loopback_header(headers.get("Host", "")):
            return 421, "The page is served on this machine only; open it as 127.0.0.1 or localhost."
        password = headers.get("Authorization", "").encode()
        if self.login and not hmac.compare_digest(password, self.login):
            if password and not self.logins.allow(address):
                return 429, "Too many attempts from your address; try again later."
            return 401, "The password is missing or wrong."
        if path not in paths.get(method, ()):
            return 404, NOT_FOUND
        if method != "POST":
            return 0, ""
        if headers.get("Content-Type", "") != "application/json":
            return 415, "The request is not JSON."
        size = headers.get("Content-Length", "")
        if not (size.isascii() and size.isdecimal()) or "Transfer-Encoding" in headers:
            return 411, "Content-Length is missing."
        if int(size[:20]) > MAX_BYTES:
            return 413, f"The request has {size[:20]} bytes; the limit is {MAX_BYTES}."
        return 0, ""
