"""Remote scores. Truth: the scores of the same settings here; the requests that a scripted server receives."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import httpx
import numpy as np
import pytest

from mapft.cli import main
from mapft.rewards import parse
from mapft.rewards.server import RewardServer
from mapft.utils import http_client
from mapft.utils.errors import UserError
from tests import worlds
from tests.rewards.requests import VOWELS, remote_scores


def test_remote_scores_are_the_servers(serve):
    url = serve({"vowels": VOWELS})
    texts = [f"text {i} aeiou" * (i % 5) for i in range(30)]
    here = parse({"v": VOWELS})["v"].load("v").score([""] * 30, texts)
    np.testing.assert_array_equal(remote_scores(f"{url}/score/vowels", texts, batch=7, sign=-1), -here)
    assert httpx.get(url).json() == {"values": {"vowels": "score"}}


def test_columns_reach_the_server(serve):
    """In batches, with the values that JSON has."""
    settings = {"kind": "function", "target": f"{__name__}:is_answer"}
    url = serve({"right": settings}) + "/score/right"
    answers = ["a", 1, "1", 2.5, True, None, ["a", None], "\u2028é"]
    texts = [json.dumps(answer) for answer in answers]
    there = parse({"v": {"kind": "remote", "url": url, "retries": 0, "batch": 3, "columns": ["answer"]}})["v"].load("v")
    assert there.score(["p"] * 8, texts, {"answer": answers}).tolist() == [1] * 8
    assert there.score(["p"] * 8, texts[::-1], {"answer": answers}).tolist() == [0] * 8
    with pytest.raises(UserError, match="status 422: rewards.right reads the column 'answer', which the data does not"):
        remote_scores(url)


def is_answer(prompts, completions, answer):
    return [float(text == json.dumps(right)) for text, right in zip(completions, answer, strict=True)]


def test_failed_connections_are_retried_and_then_reported_once(monkeypatch):
    """A port without a server, then one where a server starts during the retries."""
    monkeypatch.setattr(http_client, "FIRST_WAIT", 0.01)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(UserError, match=r"returned no scores in 4 attempts \(ConnectError"):
        remote_scores(f"http://127.0.0.1:{port}/score/vowels", retries=3)
    monkeypatch.setattr(http_client, "FIRST_WAIT", 0.5)
    server = []

    def later():
        time.sleep(0.7)
        server.append(RewardServer(parse({"vowels": VOWELS}), port=port))
        server[0].serve_forever()

    threading.Thread(target=later, daemon=True).start()
    assert remote_scores(f"http://127.0.0.1:{port}/score/vowels", retries=5)[0] == 2 / 3
    server[0].shutdown()
    server[0].server_close()


def test_after_a_crash_of_the_server_no_response_is_scored_again(tmp_path, monkeypatch, capfd):
    """The server records its requests and kills itself at the third; the command is repeated with a new server."""
    monkeypatch.setattr(http_client, "FIRST_WAIT", 0.01)
    paths = worlds.build(tmp_path)
    requested = tmp_path / "requested.jsonl"

    def serve(port=0, deadly=""):
        more = {"ASKED": str(requested), "DEADLY": deadly, "PYTHONUNBUFFERED": "1"}
        target = "+rewards.counted={kind: function, target: 'tests.worlds:counted'}"
        command = [sys.executable, "-m", "mapft", "serve-rewards", "rewards=[]", target, f"port={port}"]
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
        errors = capfd.readouterr().err
        assert errors.count("returned no scores in 3 attempts") == 1
        assert process.wait(10) == -signal.SIGKILL
        process.stdout.close()
        process, _ = serve(port)
        assert main(["score", *overrides]) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    rows = [tuple(row) for line in requested.read_text().splitlines() for row in json.loads(line)]
    assert len(rows) == 18 * 8  # 18 training prompts, 8 samples each: every response is requested once


class Scripted(BaseHTTPRequestHandler):
    """Replies to each request with the next of `replies`: (status, body, seconds in which the body is sent)."""

    replies: ClassVar[list] = []
    requests: ClassVar[list] = []

    def do_POST(self):
        self.requests.append(self.rfile.read(int(self.headers["Content-Length"])))
        status, body, wait = self.replies.pop(0)
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
    monkeypatch.setattr(http_client, "FIRST_WAIT", 0.01)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Scripted)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def replying(*replies):
        Scripted.replies, Scripted.requests = list(replies), []
        return f"http://127.0.0.1:{server.server_address[1]}/score/v"

    yield replying
    server.shutdown()
    server.server_close()


GOOD = b'{"scores": [1.5, 2]}'


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_temporary_errors_are_retried(scripted, status):
    url = scripted((status, b"busy", 0), (status, b"busy", 0), (200, GOOD, 0))
    assert remote_scores(url, retries=2).tolist() == [1.5, 2]
    assert len(Scripted.requests) == 3


@pytest.mark.parametrize(
    ("status", "advice"),
    [(401, "set MAPFT_REWARD_TOKEN"), (404, "correct the address"), (413, "smaller batch"), (422, "what the server")],
)
def test_permanent_errors_are_not_retried(scripted, status, advice):
    url = scripted((status, b'{"error": "No."}', 0), (200, GOOD, 0))
    with pytest.raises(UserError, match=rf"returned no scores in 1 attempt \(status {status}: No\.\); .*{advice}"):
        remote_scores(url, retries=5)
    assert len(Scripted.requests) == 1


def test_a_reply_that_exceeds_the_timeout_is_an_error(scripted):
    url = scripted((200, GOOD, 3.0))
    begin = time.monotonic()
    with pytest.raises(UserError, match="the reply is incomplete after 0.3 s"):
        remote_scores(url, timeout=0.3)
    assert time.monotonic() - begin < 2


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"scores": [1]}', "returned 1 scores for 2"),
        (b'{"scores": "12"}', "must reply"),
        (b'{"scores": {"a": 1, "b": 2}}', "must reply"),
        (b'{"scores": [true, false]}', "must reply"),
        (b'{"scores": ["nan", 1]}', "must reply"),
        (b'{"scores": [1' + b"0" * 400 + b", 2]}", "must reply"),
        (b"[" * 5000, "must reply"),
        (b"\xff\xfe", "must reply"),
        (b'{"scores": [' + b"1, " * 400_000 + b"1]}", "longer than 1048576 bytes"),
    ],
)
def test_an_invalid_reply_is_rejected(scripted, body, message):
    with pytest.raises(UserError, match=message):
        remote_scores(scripted((200, body, 0)))


def test_waits_double_up_to_30_seconds(monkeypatch, scripted):
    waits = []
    monkeypatch.setattr(time, "sleep", waits.append)
    monkeypatch.setattr(http_client, "FIRST_WAIT", 0.5)
    with pytest.raises(UserError, match="in 10 attempts"):
        remote_scores(scripted(*[(503, b"", 0)] * 10), retries=9)
    assert [wait for wait in waits if wait > 0] == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
