"""The reward server over real sockets. Truth: status codes of HTTP, and the scores of the same settings here."""

import json
import math
import socket
import threading
import time
from contextlib import suppress
from types import SimpleNamespace
from urllib.parse import quote

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mapft.cli import main
from mapft.rewards import parse, remote
from mapft.rewards.server import MAX_REQUEST_BYTES, RewardServer
from mapft.utils import http_client
from mapft.utils.errors import UserError
from mapft.utils.net import RateLimiter
from tests.rewards.requests import VOWELS, port_of, remote_scores
from tests.strategies import ANYTHING, TEXT


def test_a_host_that_is_not_loopback_is_rejected(serve):
    """DNS rebinding: a website whose domain name resolves to 127.0.0.1."""
    url = serve({"vowels": VOWELS})
    reply = httpx.get(url, headers={"Host": "evil.example"})
    assert reply.status_code == 421
    assert reply.json()["error"].startswith("The server is reachable from its own machine only")
    assert httpx.get(url, headers={"Host": "localhost:1"}).status_code == 200


def test_the_number_of_connections_is_bounded(serve, monkeypatch):
    monkeypatch.setattr("mapft.rewards.server.MAX_CONNECTIONS", 3)
    url = serve({"vowels": VOWELS})
    idle = [socket.create_connection(("127.0.0.1", port_of(url))) for _ in range(3)]
    with pytest.raises(httpx.TransportError):
        httpx.get(url, trust_env=False)
    for connection in idle:
        connection.close()
    for _ in range(100):  # until the threads have closed their connections
        with suppress(httpx.TransportError):
            assert httpx.get(url, trust_env=False).status_code == 200
            return
        time.sleep(0.1)
    pytest.fail("the server accepts no connection any more")


def test_a_slow_body_closes_the_connection(serve, monkeypatch):
    monkeypatch.setattr("mapft.rewards.server.BODY_TIMEOUT", 0.3)
    url = serve({"vowels": VOWELS})
    with socket.create_connection(("127.0.0.1", port_of(url)), timeout=20) as connection:
        connection.sendall(b"POST /score/vowels HTTP/1.1\r\nContent-Length: 1000\r\n\r\n{")
        assert connection.recv(64) == b""
    assert remote_scores(f"{url}/score/vowels").tolist() == [2 / 3, 0.0]


def test_the_password_of_another_server_is_masked(serve):
    upstream = {"kind": "remote", "url": "http://me:planted@127.0.0.1:9/score/v?token=planted", "retries": 0}
    reply = httpx.post(serve({"up": upstream}) + "/score/up", json={"prompts": ["p"], "responses": ["r"]})
    assert reply.status_code == 422
    assert "http://me:***@127.0.0.1:9/score/v?token=***" in reply.json()["error"]
    assert "planted" not in reply.text


@pytest.mark.parametrize(
    ("path", "request_", "status"),
    [
        ("/score/nothing", {"json": {"prompts": [], "responses": []}}, 404),
        ("/score/../../etc/passwd", {"json": {"prompts": [], "responses": []}}, 404),
        ("/score/vowels", {"content": b"not json"}, 400),
        ("/score/vowels", {"json": []}, 400),
        ("/score/vowels", {"json": {"prompts": ["a"], "responses": []}}, 400),
        ("/score/vowels", {"json": {"prompts": [1], "responses": [2]}}, 400),
        ("/score/vowels", {"content": b"[" * 100_000}, 400),
        ("/score/vowels", {"json": {"prompts": ["a"], "responses": ["b"], "columns": []}}, 400),
        ("/score/vowels", {"json": {"prompts": ["a"], "responses": ["b"], "columns": {"x": "b"}}}, 400),
        ("/score/vowels", {"json": {"prompts": ["a"], "responses": ["b"], "columns": {"x": [1, 2]}}}, 400),
        ("/score/vowels", {"json": {"prompts": ["a"] * 5000, "responses": ["b"] * 5000}}, 413),
        ("/score/broken", {"json": {"prompts": ["a"] * 3, "responses": ["b"] * 3}}, 422),
    ],
)
def test_an_invalid_request_gets_an_error_message_and_the_server_continues(serve, path, request_, status):
    url = serve({"vowels": VOWELS, "broken": {"kind": "function", "target": "tests.worlds:broken"}})
    reply = httpx.post(url + path, **request_)
    assert reply.status_code == status
    assert reply.json()["error"].endswith(".")
    assert remote_scores(f"{url}/score/vowels").tolist() == [2 / 3, 0.0]


@pytest.mark.parametrize(("length", "status"), [(MAX_REQUEST_BYTES + 1, 413), (-5, 413), ("many", 411)])
def test_a_request_with_an_invalid_length_is_rejected_unread(serve, length, status):
    url = serve({"vowels": VOWELS})
    with socket.create_connection(("127.0.0.1", port_of(url)), timeout=10) as connection:
        connection.sendall(
            f"POST /score/vowels HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n".encode()
        )
        assert connection.recv(64).startswith(f"HTTP/1.1 {status} ".encode())


def test_a_token_is_required_and_never_printed(serve, monkeypatch, capfd):
    monkeypatch.setenv(remote.TOKEN_VARIABLE, "open-sesame")
    url = serve({"vowels": VOWELS})
    assert remote_scores(f"{url}/score/vowels")[0] == 2 / 3
    assert httpx.get(url).status_code == 401
    monkeypatch.setenv(remote.TOKEN_VARIABLE, "wrong")
    with pytest.raises(UserError, match="status 401") as caught:
        remote_scores(f"{url}/score/vowels")
    assert "wrong" not in str(caught.value).replace("missing or wrong", "")
    assert "sesame" not in str(caught.value) + "".join(capfd.readouterr())


def test_an_address_that_is_not_loopback_needs_a_token(monkeypatch):
    monkeypatch.delenv(remote.TOKEN_VARIABLE, raising=False)
    with pytest.raises(UserError, match="host=0.0.0.0 is reachable from other machines"):
        RewardServer(parse({"vowels": VOWELS}), host="0.0.0.0")


def test_a_request_without_the_token_is_rejected_before_its_body_is_read(serve, monkeypatch):
    monkeypatch.setenv(remote.TOKEN_VARIABLE, "open-sesame\n")
    url = serve({"vowels": VOWELS})
    with socket.create_connection(("127.0.0.1", port_of(url)), timeout=10) as connection:
        connection.sendall(b"POST /score/vowels HTTP/1.1\r\nHost: localhost\r\nContent-Length: 60000000\r\n\r\n")
        assert connection.recv(64).startswith(b"HTTP/1.1 401 ")
    assert remote_scores(f"{url}/score/vowels")[0] == 2 / 3


def raises(prompts, completions):
    raise IndexError("list index out of range")


def slow(prompts, completions):
    CALLS.append(len(completions))
    time.sleep(0.6)
    return [0.0] * len(completions)


CALLS: list[int] = []


def test_a_request_whose_client_has_disconnected_is_not_scored(serve, monkeypatch):
    monkeypatch.setattr(http_client, "FIRST_WAIT", 0.01)
    url = serve({"slow": {"kind": "function", "target": f"{__name__}:slow"}})
    CALLS.clear()
    with pytest.raises(UserError, match="in 3 attempts"):
        remote_scores(f"{url}/score/slow", timeout=0.15, retries=2)
    time.sleep(1.5)
    assert len(CALLS) < 3


def test_any_value_name_has_an_address(serve):
    url = serve({"höflich-sehr": VOWELS, "broken": {"kind": "function", "target": f"{__name__}:raises"}})
    assert remote_scores(f"{url}/score/höflich-sehr")[0] == 2 / 3
    with pytest.raises(UserError, match="status 422: .*IndexError"):
        remote_scores(f"{url}/score/broken")


def test_an_invalid_model_is_reported_before_serving():
    with pytest.raises(UserError, match="rewards.v.path=/nowhere does not exist"):
        RewardServer(parse({"v": {"kind": "classifier", "path": "/nowhere"}}))


@pytest.mark.parametrize("port", ["port=99999", "port=abc"])
def test_an_invalid_port_is_one_sentence(port, capfd):
    target = "+rewards.v={kind: function, target: 'tests.worlds:vowels'}"
    assert main(["serve-rewards", "rewards=[]", target, port]) == 2
    assert "is invalid; give a number from 1 to 65535" in capfd.readouterr().err


@pytest.fixture(scope="module")
def port():
    """The port of a server without a rate limit."""
    with RewardServer(parse({"vowels": VOWELS})) as server:
        server.rate = RateLimiter(math.inf)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


@settings(max_examples=150, deadline=None)
@given(path=TEXT, body=st.binary(max_size=100) | ANYTHING.map(lambda content: json.dumps(content).encode()))
def test_any_request_gets_scores_or_an_error_message(port, path, body):
    for target in ("/score/vowels", "/" + quote(path, errors="replace")):
        with httpx.Client(trust_env=False) as client:
            reply = client.post(f"http://127.0.0.1:{port}{target}", content=body)
        assert reply.status_code in (200, 400, 404, 413, 422)
        assert reply.status_code == 200 or reply.json()["error"].endswith(".")


@settings(max_examples=60, deadline=None)
@given(
    st.binary(max_size=200)
    | st.binary(max_size=80).map(lambda more: b"POST /score/vowels HTTP/1.1\r\n" + more + b"\r\n\r\n")
)
def test_the_server_continues_after_any_bytes(port, raw):
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(raw)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(2**16):
            pass
    with httpx.Client(trust_env=False) as client:
        reply = client.post(f"http://127.0.0.1:{port}/score/vowels", json={"prompts": ["p"], "responses": ["ab"]})
    assert reply.json() == {"scores": [1 / 3]}


def test_the_rate_of_requests_is_limited_per_address(serve, monkeypatch):
    clock = SimpleNamespace(monotonic=lambda: 0.0)  # stands still, so the bucket gains no tokens
    monkeypatch.setattr("mapft.utils.net.time", clock)
    monkeypatch.setattr("mapft.rewards.server.MAX_RATE", 5.0)
    url = serve({"vowels": VOWELS})
    statuses = [httpx.get(url, trust_env=False).status_code for _ in range(12)]
    assert statuses == [200] * 5 + [429] * 7
    clock.monotonic = lambda: 1.0
    assert httpx.get(url, trust_env=False).status_code == 200
    with httpx.Client(transport=httpx.HTTPTransport(local_address="127.0.0.2")) as client:
        assert client.get(url).status_code == 200
