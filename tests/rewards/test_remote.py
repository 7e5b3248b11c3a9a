"""A real server over real sockets. Truth: the scores that the same settings give here; what is on disk."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import httpx
import numpy as np
import pytest

from mapft.cli import main
from mapft.errors import UserError
from mapft.rewards import parse, remote
from mapft.rewards.server import MOST_BYTES, RewardServer
from tests import worlds

VOWELS = {"kind": "function", "target": "tests.worlds:vowels"}


@pytest.fixture
def serving():
    servers = []

    def start(rewards, **more):
        server = RewardServer(parse(rewards), **more)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def ask(url, responses=("aa", "b"), **more):
    return (
        parse({"v": {"kind": "remote", "url": url, "retries": 0} | more})["v"]
        .load("v")
        .score(["p"] * len(responses), responses)
    )


def test_remote_scores_are_the_servers(serving):
    url = serving({"vowels": VOWELS})
    texts = [f"text {i} aeiou" * (i % 5) for i in range(30)]
    here = parse({"v": VOWELS})["v"].load("v").score([""] * 30, texts)
    np.testing.assert_array_equal(ask(f"{url}/score/vowels", texts, batch=7, sign=-1), -here)
    assert httpx.get(url).json() == {"values": {"vowels": "score"}}


def test_another_name_for_this_machine_is_refused(serving):
    """As a browser asks whose site has pointed its own name here."""
    url = serving({"vowels": VOWELS})
    answer = httpx.get(url, headers={"Host": "evil.example"})
    assert answer.status_code == 421
    assert answer.json()["error"].startswith("The scores are served on this machine alone")
    assert httpx.get(url, headers={"Host": "localhost:1"}).status_code == 200


def test_the_number_of_connections_is_bounded(serving, monkeypatch):
    monkeypatch.setattr("mapft.rewards.server.MOST_CONNECTIONS", 3)
    url = serving({"vowels": VOWELS})
    idle = [socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) for _ in range(3)]
    with pytest.raises(httpx.TransportError):
        httpx.get(url, trust_env=False)
    for connection in idle:
        connection.close()
    for _ in range(100):  # until the threads have seen it
        with suppress(httpx.TransportError):
            assert httpx.get(url, trust_env=False).status_code == 200
            return
        time.sleep(0.1)
    pytest.fail("no connection is taken any more")


def test_a_body_that_trickles_ends_the_connection(serving, monkeypatch):
    monkeypatch.setattr("mapft.rewards.server.LONGEST_BODY", 0.3)
    url = serving({"vowels": VOWELS})
    with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=20) as connection:
        connection.sendall(b"POST /score/vowels HTTP/1.1\r\nContent-Length: 1000\r\n\r\n{")
        assert connection.recv(64) == b""
    assert ask(f"{url}/score/vowels").tolist() == [2 / 3, 0.0]


def test_the_password_of_another_server_is_not_told(serving):
    upstream = {"kind": "remote", "url": "http://me:planted@127.0.0.1:9/score/v?token=planted", "retries": 0}
    answer = httpx.post(serving({"up": upstream}) + "/score/up", json={"prompts": ["p"], "responses": ["r"]})
    assert answer.status_code == 422
    assert "http://me:***@127.0.0.1:9/score/v?token=***" in answer.json()["error"]
    assert "planted" not in answer.text


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
        ("/score/vowels", {"json": {"prompts": ["a"] * 5000, "responses": ["b"] * 5000}}, 413),
        ("/score/broken", {"json": {"prompts": ["a"] * 3, "responses": ["b"] * 3}}, 422),
    ],
)
def test_a_bad_request_is_refused_with_a_sentence_and_the_server_lives(serving, path, request_, status):
    url = serving({"vowels": VOWELS, "broken": {"kind": "function", "target": "tests.worlds:broken"}})
    answer = httpx.post(url + path, **request_)
    assert answer.status_code == status
    assert answer.json()["error"].endswith(".")
    assert ask(f"{url}/score/vowels").tolist() == [2 / 3, 0.0]


@pytest.mark.parametrize(("length", "status"), [(MOST_BYTES + 1, 413), (-5, 413), ("many", 411)])
def test_a_request_of_impossible_length_is_refused_unread(serving, length, status):
    url = serving({"vowels": VOWELS})
    with socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1])), timeout=10) as connection:
        connection.sendall(
            f"POST /score/vowels HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n".encode()
        )
        assert connection.recv(64).startswith(f"HTTP/1.1 {status} ".encode())


def test_a_token_is_asked_for_and_never_shown(serving, monkeypatch, capfd):
    monkeypatch.setenv(remote.TOKEN, "open-sesame")
    url = serving({"vowels": VOWELS})
    assert ask(f"{url}/score/vowels")[0] == 2 / 3
    assert httpx.get(url).status_code == 401
    monkeypatch.setenv(remote.TOKEN, "wrong")
    with pytest.raises(UserError, match="status 401") as caught:
        ask(f"{url}/score/vowels")
    assert "wrong" not in str(caught.value).replace("missing or wrong", "")
    assert "sesame" not in str(caught.value) + "".join(capfd.readouterr())


def test_another_address_needs_a_token(monkeypatch):
    monkeypatch.delenv(remote.TOKEN, raising=False)
    with pytest.raises(UserError, match="can be reached from elsewhere"):
        RewardServer(parse({"vowels": VOWELS}), host="0.0.0.0")


def test_failures_are_tried_again_and_then_told_once(monkeypatch):
    """A port where nobody listens, then one that begins to."""
    monkeypatch.setattr(remote, "FIRST_WAIT", 0.01)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(UserError, match=r"gave no scores after 4 tries \(ConnectError"):
        ask(f"http://127.0.0.1:{port}/score/vowels", retries=3)
    monkeypatch.setattr(remote, "FIRST_WAIT", 0.5)
    server = []

    def later():
        time.sleep(0.7)
        server.append(RewardServer(parse({"vowels": VOWELS}), port=port))
        server[0].serve_forever()

    threading.Thread(target=later, daemon=True).start()
    assert ask(f"http://127.0.0.1:{port}/score/vowels", retries=5)[0] == 2 / 3
    server[0].shutdown()
    server[0].server_close()


def test_a_server_killed_in_mid_run_costs_nothing_that_was_scored(tmp_path, monkeypatch, capfd):
    """The server writes down what it is asked for and dies at its third request; the run is repeated with another."""
    monkeypatch.setattr(remote, "FIRST_WAIT", 0.01)
    paths = worlds.build(tmp_path)
    asked = tmp_path / "asked.jsonl"

    def serve(port=0, deadly=""):
        more = {"ASKED": str(asked), "DEADLY": deadly, "PYTHONUNBUFFERED": "1"}
        target = "+rewards.counted={kind: function, target: 'tests.worlds:counted'}"
        command = [sys.executable, "-m", "mapft.cli", "serve-rewards", "rewards=[]", target, f"port={port}"]
        process = subprocess.Popen(command, env=os.environ | more, stdout=subprocess.PIPE, text=True)
        return process, int(process.stdout.readline().split("127.0.0.1:")[1].split("/")[0])

    process, port = serve(deadly="2")
    overrides = [
        "experiment=own",
        f"model.path={paths['model']}",
        f"data.path={paths['prompts']}",
        "data.column=question",
    ]
    overrides += [
        "rewards=[]",
        "+rewards.there.kind=remote",
        f"+rewards.there.url=http://127.0.0.1:{port}/score/counted",
    ]
    overrides += ["+rewards.there.batch=32", "+rewards.there.retries=2", "palette=custom", "+palette.sd.there=0.1"]
    overrides += ["sampling.max_new_tokens=4", f"output={tmp_path / 'runs'}"]
    try:
        assert main(["score", *overrides]) == 2
        told = capfd.readouterr().err
        assert told.count("gave no scores after 3 tries") == 1
        assert process.wait(10) == -signal.SIGKILL
        process.stdout.close()
        process, _ = serve(port)
        assert main(["score", *overrides]) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    rows = [tuple(row) for line in asked.read_text().splitlines() for row in json.loads(line)]
    assert len(rows) == 18 * 8  # training prompts of the 24, 8 samples each: every one asked for once


class Scripted(BaseHTTPRequestHandler):
    """Answers each request with the next of `answers`: (status, body, seconds to wait before it)."""

    answers: ClassVar[list] = []
    asked: ClassVar[list] = []

    def do_POST(self):
        self.asked.append(self.rfile.read(int(self.headers["Content-Length"])))
        status, body, wait = self.answers.pop(0)
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        for part in [bytes([byte]) for byte in body] if wait else [body]:
            time.sleep(wait / max(len(body), 1))
            try:
                self.wfile.write(part)
                self.wfile.flush()
            except ConnectionError:
                return

    def log_message(self, *_):
        pass


@pytest.fixture
def scripted(monkeypatch):
    monkeypatch.setattr(remote, "FIRST_WAIT", 0.01)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Scripted)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def answering(*answers):
        Scripted.answers, Scripted.asked = list(answers), []
        return f"http://127.0.0.1:{server.server_address[1]}/score/v"

    yield answering
    server.shutdown()
    server.server_close()


GOOD = b'{"scores": [1.5, 2]}'


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_what_may_pass_is_tried_again(scripted, status):
    url = scripted((status, b"busy", 0), (status, b"busy", 0), (200, GOOD, 0))
    assert ask(url, retries=2).tolist() == [1.5, 2]
    assert len(Scripted.asked) == 3


@pytest.mark.parametrize(
    ("status", "advice"),
    [(401, "set MAPFT_REWARD_TOKEN"), (404, "correct the address"), (413, "smaller batch"), (422, "what the server")],
)
def test_what_will_not_pass_is_asked_once(scripted, status, advice):
    url = scripted((status, b'{"error": "No."}', 0), (200, GOOD, 0))
    with pytest.raises(UserError, match=rf"after 1 tries \(status {status}: No\.\); .*{advice}"):
        ask(url, retries=5)
    assert len(Scripted.asked) == 1


def test_an_answer_that_dribbles_is_too_late(scripted):
    url = scripted((200, GOOD, 3.0))
    begin = time.monotonic()
    with pytest.raises(UserError, match="no whole answer within 0.3 s"):
        ask(url, timeout=0.3)
    assert time.monotonic() - begin < 2


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"scores": [1]}', "gave 1 scores for 2"),
        (b'{"scores": "12"}', "must answer"),
        (b'{"scores": {"a": 1, "b": 2}}', "must answer"),
        (b'{"scores": [true, false]}', "must answer"),
        (b'{"scores": ["nan", 1]}', "must answer"),
        (b'{"scores": [1' + b"0" * 400 + b", 2]}", "must answer"),
        (b"[" * 5000, "must answer"),
        (b"\xff\xfe", "must answer"),
        (b'{"scores": [' + b"1, " * 400_000 + b"1]}", "more than 1048576 bytes"),
    ],
)
def test_an_answer_of_another_shape_is_no_score(scripted, body, said):
    with pytest.raises(UserError, match=said):
        ask(scripted((200, body, 0)))


def test_waits_grow_and_end(monkeypatch, scripted):
    waits = []
    monkeypatch.setattr(remote.time, "sleep", waits.append)
    monkeypatch.setattr(remote, "FIRST_WAIT", 0.5)
    with pytest.raises(UserError, match="after 10 tries"):
        ask(scripted(*[(503, b"", 0)] * 10), retries=9)
    assert [wait for wait in waits if wait > 0] == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]


def test_a_stranger_is_refused_before_the_body_is_read(serving, monkeypatch):
    monkeypatch.setenv(remote.TOKEN, "open-sesame\n")
    url = serving({"vowels": VOWELS})
    with socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1])), timeout=10) as connection:
        connection.sendall(b"POST /score/vowels HTTP/1.1\r\nHost: localhost\r\nContent-Length: 60000000\r\n\r\n")
        assert connection.recv(64).startswith(b"HTTP/1.1 401 ")
    assert ask(f"{url}/score/vowels")[0] == 2 / 3


def raises(prompts, completions):
    raise IndexError("list index out of range")


def slow(prompts, completions):
    CALLS.append(len(completions))
    time.sleep(0.6)
    return [0.0] * len(completions)


CALLS: list[int] = []


def test_a_request_that_nobody_waits_for_any_more_is_not_scored(serving, monkeypatch):
    monkeypatch.setattr(remote, "FIRST_WAIT", 0.01)
    url = serving({"slow": {"kind": "function", "target": f"{__name__}:slow"}})
    CALLS.clear()
    with pytest.raises(UserError, match="after 3 tries"):
        ask(f"{url}/score/slow", timeout=0.15, retries=2)
    time.sleep(1.5)
    assert len(CALLS) < 3


def test_any_name_has_an_address(serving):
    url = serving({"höflich, sehr": VOWELS, "broken": {"kind": "function", "target": f"{__name__}:raises"}})
    assert ask(f"{url}/score/höflich, sehr")[0] == 2 / 3
    with pytest.raises(UserError, match="status 422: .*IndexError"):
        ask(f"{url}/score/broken")


def test_models_that_do_not_load_are_named_before_serving():
    with pytest.raises(UserError, match="rewards.v.path=/nowhere does not exist"):
        RewardServer(parse({"v": {"kind": "classifier", "path": "/nowhere"}}))


@pytest.mark.parametrize("port", ["port=99999", "port=abc"])
def test_a_wrong_port_is_one_sentence(port, capfd):
    target = "+rewards.v={kind: function, target: 'tests.worlds:vowels'}"
    assert main(["serve-rewards", "rewards=[]", target, port]) == 2
    assert "is no port" in capfd.readouterr().err
