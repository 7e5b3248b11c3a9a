"""What the servers of this package share: whether an address is loopback, and a limit on the rate of requests."""

import ipaddress
import threading
import time

MAX_ADDRESSES = 1024  # for which a rate is stored


def is_loopback(host: str) -> bool:
    """Whether an address is reachable from this machine only."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_loopback_header(header: str) -> bool:
    """Whether the Host header of a request, with or without a port, names a loopback address.

    A website whose domain name resolves to 127.0.0.1 (DNS rebinding) makes the browser send that domain name.
    """
    if not header:  # a browser always sends the header
        return True
    name = header[1 : header.find("]")] if header.startswith("[") else header.partition(":")[0]
    return is_loopback(name)


class RateLimiter:
    """A token bucket per address: it holds at most `rate` tokens and gains `rate` per second; a request takes one."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._lock, self._buckets = threading.Lock(), dict[str, tuple[float, float]]()

    def allow(self, address: str) -> bool:
        """Take a token; False where the bucket is empty."""
        now = time.monotonic()
        with self._lock:
            tokens, updated = self._buckets.pop(address, (self.rate, now))
            tokens = min(self.rate, tokens + (now - updated) * self.rate)
            allowed = tokens >= 1
            self._buckets[address] = (tokens - 1 if allowed else tokens, now)
            while len(self._buckets) > MAX_ADDRESSES:  # the dict is in the order of the last requests
                del self._buckets[next(iter(self._buckets))]
        return allowed
