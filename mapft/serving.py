"""What the servers here share: whether an address is this machine's own, and how often one may ask."""

import ipaddress
import threading
import time

MOST_ADDRESSES = 1024  # whose rate is remembered


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_own_name(header: str) -> bool:
    """Whether the Host of a request, with or without a port, is one of this machine's own names.

    A site that points its own name at 127.0.0.1 is asked for under that name; it must not pass for this machine.
    """
    if not header:  # which no browser sends
        return True
    name = header[1 : header.find("]")] if header.startswith("[") else header.partition(":")[0]
    return is_loopback(name)


class Rate:
    """A bucket of `rate` tokens for each address, filled with as many a second; every request takes one."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._lock, self._tokens = threading.Lock(), dict[str, tuple[float, float]]()

    def exceeded(self, address: str) -> bool:
        """Take a token; whether there was none."""
        now = time.monotonic()
        with self._lock:
            left, then = self._tokens.pop(address, (self.rate, now))
            left = min(self.rate, left + (now - then) * self.rate)
            self._tokens[address] = (left - 1 if left >= 1 else left, now)
            while len(self._tokens) > MOST_ADDRESSES:  # the one that has asked longest ago
                del self._tokens[next(iter(self._tokens))]
        return left < 1
