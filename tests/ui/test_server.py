"""The server of the page, and the files that it opens. Truth: what HTTP and a browser allow, and the files on disk."""

import base64
import json
import socket
import threading
from email.message import Message
from types import SimpleNamespace

import httpx
import pandas as pd
import pytest
import yaml

from mapft.cli import main
from mapft.ui.gate import MAX_BYTES, Gate
from mapft.ui.server import PageServer
from mapft.ui.service import open_scores, server_of
from mapft.ui.worker import SLOW, Worker
from mapft.utils.errors import UserError
from tests.ui.scores import scored_run, trained_run

JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return scored_run(tmp_path_factory.mktemp("runs") / "run-mine-0")


@pytest.fixture(scope="module")
def served(run):
    yield from serving(server_of(run, "127.0.0.1", None))


def serving(server: PageServer):
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("method", "path", "request_", "status"),
    [
        ("GET", "/", {}, 200),
        ("HEAD", "/", {}, 200),
        ("GET", "/app.js", {}, 200),
        ("GET", "/?x=1", {}, 200),
        ("GET", "/", {"headers": {"host": "localhost:1"}}, 200),
        ("GET", "/", {"headers": {"host": "evil.example:7860"}}, 421),
        ("GET", "/", {"headers": {"host": "127.0.0.1.evil.example"}}, 421),
        ("GET", "/../server.py", {}, 404),
        ("GET", "/etc/passwd", {}, 404),
        ("GET", "/solve", {}, 404),
        ("POST", "/", {"content": b"{}", "headers": JSON}, 404),
        ("POST", "/start", {"content": b"{}", "headers": JSON}, 200),
        ("POST", "/start", {"content": b"{}"}, 415),  # what a form of another web site can send
        ("POST", "/start", {"content": b"{}", "headers": {"content-type": "text/plain"}}, 415),
        ("POST", "/start", {"content": iter([b"{}"]), "headers": JSON}, 411),
        ("POST", "/start", {"content": b" " * (MAX_BYTES + 1), "headers": JSON}, 413),
        ("POST", "/start", {"content": b"[]", "headers": JSON}, 400),
        ("POST", "/start", {"content": b"{", "headers": JSON}, 400),
        ("POST", "/start", {"content": b"[" * 100_000, "headers": JSON}, 400),
        ("DELETE", "/", {}, 501),
    ],
)
def test_only_requests_of_the_page_are_served(served, method, path, request_, status):
    response = httpx.request(method, served + path, **request_)
    assert response.status_code == status, response.text


def test_no_script_from_elsewhere_runs_in_the_page(served):
    policy = httpx.get(served).headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("solve", {}),
        ("solve", {"unit": "sd", "positions": [1]}),
        ("solve", {"unit": "sd", "positions": [{}, [], "x"], "name": ""}),
        ("solve", {"unit": "sd", "positions": [None, None, None], "name": ""}),
        ("solve", {"unit": "sd", "positions": [1e999, 0, 0], "name": ""}),
        ("solve", {"unit": "percent", "positions": [0.5, 0.5, 0.5], "name": ""}),
        ("solve", {"unit": "quantile", "positions": [5, 0.5, 0.5], "name": ""}),
        ("around", {"unit": "sd", "positions": [0.1, 0.1, 0.1], "pair": [1, 1]}),
        ("level", {"unit": "sd", "positions": [0.1, 0.1, 0.1], "pair": [0, 1], "at": [1]}),
        ("load", {"name": "../../etc/passwd"}),
        ("save", {"name": "../up", "unit": "sd", "positions": [0.1, 0.1, 0.1]}),
    ],
)
def test_an_invalid_request_is_one_sentence(served, path, content):
    response = httpx.post(f"{served}/{path}", content=json.dumps(content), headers=JSON)
    assert response.status_code in (400, 422)
    assert response.json()["error"].endswith(".")


def stop_time(monkeypatch):
    """No time passes, so no requests are added to the budget of an address."""
    monkeypatch.setattr("mapft.utils.net.time", SimpleNamespace(monotonic=lambda: 0.0))


def test_requests_are_limited_in_rate(monkeypatch):
    stop_time(monkeypatch)
    monkeypatch.setattr("mapft.ui.gate.RATE", 5.0)
    gate = Gate(loopback=False)
    statuses = [gate.refusal("GET", "/", Message(), "a", {"GET": ["/"]})[0] for _ in range(7)]
    assert statuses == [0] * 5 + [429] * 2
    assert gate.refusal("GET", "/", Message(), "b", {"GET": ["/"]}) == (0, "")


def test_a_password_is_required_and_cannot_be_tried_often(run, monkeypatch):
    stop_time(monkeypatch)
    monkeypatch.setenv("MAPFT_UI_PASSWORD", "planted-ü")
    for url in serving(server_of(run, "127.0.0.1", None)):
        assert httpx.get(url).status_code == 401
        assert httpx.get(url).headers["www-authenticate"].startswith("Basic")
        right = {"authorization": "Basic " + base64.b64encode("mapft:planted-ü".encode()).decode()}
        assert httpx.get(url, headers=right).status_code == 200
        wrong = [httpx.get(url, headers={"authorization": f"Basic {number}"}).status_code for number in range(5)]
        assert wrong == [401] * 3 + [429] * 2
        assert httpx.get(url, headers=right).status_code == 200


def test_a_port_in_use_is_one_sentence(run):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        with pytest.raises(UserError, match=f"cannot be served on 127.0.0.1:{port} .*choose another --port"):
            server_of(run, "127.0.0.1", port)


def test_a_palette_is_saved_listed_and_loaded(run):
    page = open_scores(run)
    request = {"unit": "sd", "positions": [0.3, None, 1 / 3], "name": "gentle"}
    assert "gentle.yaml" in page.save(request)["message"]
    saved = yaml.safe_load((run.parent / "palettes" / "gentle.yaml").read_text())
    assert saved == {"name": "gentle", "sd": {"value_0": 0.3, "value_2": 0.3333333333}}
    assert page.start({})["saved"] == ["gentle"]
    assert page.load({"name": "gentle"}) == {"unit": "sd", "positions": [0.3, None, 0.3333333333]}
    with pytest.raises(UserError, match="exists already"):
        page.save(request)
    (run.parent / "palettes" / "other.yaml").write_text("quantiles: {gone: 0.5}")
    with pytest.raises(UserError, match="is not a palette of these values"):
        page.load({"name": "other"})


def test_the_page_of_a_trained_run_begins_with_its_palette(tmp_path):
    page = open_scores(trained_run(tmp_path / "run"))
    initial = page.start({})["initial"]
    named = {name: at for name, at in zip(page.values, initial["positions"], strict=True) if at is not None}
    assert dict(page.board.palette(initial["unit"], named).targets) == pytest.approx({"value_0": 0.5, "value_1": 0.25})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{run}", "--port"], "argument --port: expected one argument"),
        (["{run}", "--port", "99999"], "99999 is invalid; give a number from 1 to 65535"),
        (["{run}", "--color", "red"], "unrecognized arguments: --color red"),
        (["{run}", "--host", "0.0.0.0"], "opens the page to other machines; set a password in MAPFT_UI_PASSWORD"),
        (["{run}/.."], "has no scores.parquet, so it is not a scored run"),
        (["{run}/config.json"], "is neither a run folder nor a .csv or .parquet file of scores"),
        (["nowhere.csv"], "nowhere.csv"),
    ],
)
def test_invalid_arguments_are_one_sentence(run, capfd, arguments, message):
    assert main(["ui", *(argument.format(run=run) for argument in arguments)]) == 2
    [line] = capfd.readouterr().err.splitlines()
    assert message in line


@pytest.mark.parametrize(("cell", "message"), [("nan", "nan"), ("inf", "inf"), ("1e999", "inf"), ("<b>", "<b>")])
def test_invalid_scores_are_refused(tmp_path, cell, message):
    path = tmp_path / "scores.csv"
    path.write_text(f"prompt_id,a,b,response\n0,1.0,2.0,x\n0,{cell},1.0,<b>y</b>\n", "utf-8")
    with pytest.raises(UserError, match=message):
        open_scores(path)


def test_scores_with_texts_in_a_csv(tmp_path):
    path = tmp_path / "scores.csv"
    pd.DataFrame(
        {"prompt_id": [0, 0, 1, 1], "a": [0.0, 1, 2, 3], "prompt": list("ppqq"), "response": list("wxyz")}
    ).to_csv(path, index=False)
    page = open_scores(path)
    assert page.board.prompt_texts == {0: "p", 1: "q"}
    assert (page.board.responses, page.saved.folder, page.command) == (
        list("wxyz"),
        tmp_path / "palettes",
        "mapft run 'rewards=[a]'",
    )


def test_texts_that_read_as_missing_values_are_kept(tmp_path):
    path = tmp_path / "scores.csv"
    path.write_text("prompt_id,a,response\n0,1.0,None\n0,2.0,NA\n1,1.0,\n1,2.0,null\n")
    page = open_scores(path)
    assert (page.board.prompt_texts, page.board.responses) == ({0: "", 1: ""}, ["None", "NA", "", "null"])
    request = {"unit": "absolute", "positions": [1.6], "prompt": 0, "measured": False}
    assert [answer["text"] for answer in page.answers(request)["answers"]] == ["NA", "None"]
    pd.DataFrame({"prompt_id": [0, 0], "a": [1.0, 2.0], "response": [3, 4]}).to_parquet(tmp_path / "scores.parquet")
    with pytest.raises(UserError, match="column response of .* holds 3, which is not text"):
        open_scores(tmp_path / "scores.parquet")


def test_slow_requests_are_answered_by_a_process_that_ends_with_the_server(run):
    page, asked = open_scores(run), {"unit": "sd", "positions": [0.3, None, 0.2], "pair": [0, 1]}
    worker = Worker(page.board.matrix)
    for path in SLOW:
        assert worker.handlers[path](asked) == page.handlers[path](asked)
    with pytest.raises(UserError, match="no target"):
        worker.handlers["/bands"]({**asked, "positions": [None] * 3})
    worker.pipe.close()  # as the system does when the server ends
    worker.process.join(60)
    assert worker.process.exitcode == 0
