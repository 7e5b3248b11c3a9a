"""Loopback addresses and the rate limit. Truth: RFC 1122 and 4291; token buckets by hand, on a clock of the test."""

from types import SimpleNamespace

import pytest

from mapft.utils import net
from mapft.utils.net import RateLimiter, is_loopback, is_loopback_header


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.0.1", False),
        ("localhost.example.com", False),
        ("", False),
    ],
)
def test_loopback_addresses(host, expected):
    assert is_loopback(host) is expected


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("127.0.0.1:8080", True),
        ("localhost", True),
        ("localhost:1", True),
        ("[::1]:8080", True),
        ("", True),
        ("evil.example", False),
        ("127.0.0.1.evil.example:80", False),
        ("[::2]:80", False),
        ("[", False),
    ],
)
def test_host_headers(header, expected):
    assert is_loopback_header(header) is expected


@pytest.fixture
def clock(monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(net, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def test_a_bucket_holds_rate_tokens_and_gains_rate_per_second(clock):
    limiter = RateLimiter(4.0)
    assert [limiter.allow("a") for _ in range(6)] == [True] * 4 + [False] * 2
    assert limiter.allow("b")
    clock.now = 0.5  # two tokens more
    assert [limiter.allow("a") for _ in range(3)] == [True, True, False]
    clock.now = 100.0  # at most 4
    assert [limiter.allow("a") for _ in range(5)] == [True] * 4 + [False]


def test_the_address_whose_last_request_is_oldest_is_forgotten(clock, monkeypatch):
    monkeypatch.setattr(net, "MAX_ADDRESSES", 2)
    limiter = RateLimiter(1.0)
    assert [limiter.allow(address) for address in "abac"] == [True, True, False, True]  # b is forgotten
    assert not limiter.allow("a")
    assert limiter.allow("b")
