"""The page in a real browser, on a run folder written by the test. Truth: mapft.palette, and the files on disk."""

import asyncio
import json
import shlex
import socket
from types import SimpleNamespace

import httpx
import pandas as pd
import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from mapft.cli import main
from mapft.palette import Palette, ScoreMatrix, adjust, solve_dual
from mapft.palette.explain import infeasibility_sentence
from mapft.ui import html
from mapft.ui.board import NEAREST
from mapft.ui.gate import MAX_BYTES, Gate
from mapft.ui.service import open_scores, page_of
from mapft.utils.errors import UserError
from tests.ui.browser import CHROMIUM, browsing, serving, set_level, wait_for_verdict
from tests.ui.scores import matrix

HOSTILE = "<img src=x onerror=window.hacked=1>${window.hacked=1}{{window.hacked=1}}<script>window.hacked=1</script>"
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (apt-get install chromium)")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder with hostile texts."""
    folder = tmp_path_factory.mktemp("runs") / "run-mine-0"
    folder.mkdir()
    scores = matrix()
    scores.to_parquet(folder / "scores.parquet")
    texts = {"prompt": [f"{HOSTILE} {i // 8}" for i in range(400)], "response": [f"{HOSTILE} {i}" for i in range(400)]}
    pd.DataFrame(texts).to_parquet(folder / "samples.parquet")
    (folder / "config.json").write_text(json.dumps({"command": "mapft score experiment=own seed=3 palette=hhh_50"}))
    return folder


@pytest.fixture(scope="module")
def served(run):
    with serving(run) as url:
        yield url


@pytest.fixture
def browsed(served):
    with browsing(served) as page_and_errors:
        yield page_and_errors


@pytest.mark.parametrize("path", ["/etc/passwd", "{run}/config.json", "{run}/../run-mine-0/samples.parquet"])
def test_no_request_reads_a_file(served, run, path):
    for route in ("/gradio_api/file=", "/file=", "/gradio_api/file/", "/static/../../../../../.."):
        response = httpx.get(served + route + path.format(run=run))
        assert response.status_code in (400, 403, 404, 405)
        assert b"root:" not in response.content


@pytest.mark.parametrize(
    ("method", "path", "request_", "status"),
    [
        ("POST", "/gradio_api/upload", {"files": {"files": b"x" * 100}}, 404),
        ("POST", "/gradio_api/queue/join", {"content": b"x" * (MAX_BYTES + 1)}, 413),
        ("POST", "/gradio_api/queue/join", {"content": iter([b"x"])}, 411),
        ("GET", "/gradio_api/proxy=http://127.0.0.1", {}, 404),
        ("GET", "/gradio_api/info", {}, 404),
        ("GET", "/monitoring", {}, 404),
        ("DELETE", "/", {}, 404),
        ("GET", "/assets/../config", {"headers": {"host": "evil.example"}}, 421),
        ("GET", "/", {"headers": {"host": "evil.example:7860"}}, 421),
        ("GET", "/", {"headers": {"host": "127.0.0.1.evil.example"}}, 421),
        ("GET", "/", {"headers": {"host": "localhost:1"}}, 200),
        ("HEAD", "/", {}, 200),
    ],
)
def test_only_requests_of_the_page_are_served(served, method, path, request_, status):
    response = httpx.request(method, served + path, **request_)
    assert response.status_code == status, response.text


def test_requests_to_the_page_are_limited_in_rate(monkeypatch):
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    now = SimpleNamespace(monotonic=lambda: 0.0)  # no time passes, so no requests are added to the budget
    monkeypatch.setattr("mapft.utils.net.time", now)
    monkeypatch.setattr("mapft.ui.gate.RATE", 5.0)

    async def statuses(times: int, path: str = "/", host: str = "a.example") -> list[int]:
        transport = httpx.ASGITransport(Gate(app, loopback=False))
        async with httpx.AsyncClient(transport=transport, base_url=f"http://{host}") as client:
            method = "POST" if path == "/login" else "GET"
            return [(await client.request(method, path)).status_code for _ in range(times)]

    assert asyncio.run(statuses(7)) == [200] * 5 + [429] * 2
    assert asyncio.run(statuses(5, "/login")) == [200] * 3 + [429] * 2


def test_a_port_in_use_is_one_sentence(run):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        with pytest.raises(UserError, match=f"cannot be served on 127.0.0.1:{port} .*choose another --port"):
            page_of(run, "127.0.0.1", port)


def set_infeasible(page, scores: ScoreMatrix) -> Palette:
    """Move the sliders to an infeasible palette, whose certificate the page must show; returns the palette."""
    quantiles = {"value_0": 1.0, "value_1": 1.0, "value_2": 0.5}
    for number, level in enumerate(quantiles.values()):
        set_level(page, number, level)
    palette = Palette.of(scores, quantiles=quantiles)
    solution = solve_dual(scores, palette)
    wait_for_verdict(page, f"Margin {solution.margin:+.3f} sd")
    assert page.query_selector("#verdict .no")
    assert infeasibility_sentence(scores, solution) in page.inner_text("#verdict .verdict")
    return palette


def test_sliders_nearest_palettes_saving_and_loading(browsed, run):
    page, errors = browsed
    scores = ScoreMatrix.from_parquet(run / "scores.parquet")
    for number, quantile in enumerate((0.6, 0.55, 0.5)):
        set_level(page, number, quantile)
    solution = solve_dual(scores, Palette.of(scores, quantiles={"value_0": 0.6, "value_1": 0.55, "value_2": 0.5}))
    wait_for_verdict(page, f"{solution.kl:.3f} nats")
    assert f"{solution.lam['value_0']:.3f}" in page.inner_text("#levels")
    command = page.input_value("#command textarea")
    assert command.startswith("mapft run experiment=own seed=3 palette=custom palette.name=mine")
    overrides = OverridesParser.create().parse_overrides(shlex.split(command)[2:])
    settings = {override.key_or_group: override.value() for override in overrides}
    assert [settings.pop(f"palette.quantiles.value_{number}") for number in range(3)] == [0.6, 0.55, 0.5]
    assert settings == {"experiment": "own", "seed": 3, "palette": "custom", "palette.name": "mine"}

    for method in NEAREST:
        page.check("#unit input[value=quantile]")
        page.wait_for_selector("#level-0 input[type=number][max='1']")
        requested = set_infeasible(page, scores)
        page.click(f"#{method}")
        nearest = adjust(scores, requested, method)
        wait_for_verdict(page, f"{nearest.solution.kl:.3f} nats")
        for number, level in enumerate(nearest.new.targets.values()):
            assert float(page.input_value(f"#level-{number} input[type=number]")) == pytest.approx(level, rel=1e-6)

    page.fill("#name input, #name textarea", "gentle")
    page.click("#save")
    page.wait_for_function("document.querySelector('#message textarea, #message input').value.includes('gentle.yaml')")
    saved = yaml.safe_load((run.parent / "palettes" / "gentle.yaml").read_text())
    assert saved["name"] == "gentle"
    assert solve_dual(scores, Palette(saved["absolute"])).status == "optimal"
    verdict = page.inner_text("#verdict .verdict").split("nats")[
        0
    ]  # without the effective samples, which are at the limit of adjust, where rounding shows
    assert errors == []
    page.reload()
    page.wait_for_selector("#verdict .yes")
    errors.clear()  # Gradio's, of requests that the reload interrupted
    assert verdict not in page.inner_text("#verdict .verdict")
    page.click("#saved input")
    page.click("[role=option]:has-text('gentle')")
    page.click("#load")
    wait_for_verdict(page, verdict)
    page.click("#save")
    page.wait_for_selector("text=exists already")
    assert errors == []


def test_texts_of_a_file_are_not_executed(browsed):
    page, errors = browsed
    page.wait_for_selector("#samples td")
    assert "<img src=x" in page.inner_text("#samples")
    assert page.evaluate("window.hacked") is None
    assert page.query_selector("#samples img, #samples script") is None
    assert errors == []


def test_keyboard_narrow_and_dark(browsed, served):
    page, _ = browsed
    before = page.inner_text("#verdict .verdict")
    page.focus("#level-0 input[type=range]")
    page.keyboard.press("ArrowLeft")
    page.wait_for_function("text => document.querySelector('#verdict .verdict').innerText != text", arg=before)
    page.focus("#unit input[value=quantile]")
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    page.wait_for_function("document.querySelector('#command textarea').value.includes('palette.sd.value_0=')")
    page.set_viewport_size({"width": 400, "height": 800})
    page.goto(f"{served}/?__theme=dark")
    page.wait_for_selector("#verdict .yes")
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    fill = "getComputedStyle(document.querySelector('#radar text')).fill"
    background = "getComputedStyle(document.querySelector('gradio-app')).backgroundColor"
    light, dark = page.evaluate(f"[{fill}, {background}]")
    assert sum(map(int, light[4:-1].split(","))) > 3 * 150 > sum(map(int, dark[4:-1].split(",")[:3]))


@pytest.mark.slow
def test_without_scores_the_page_shows_those_of_the_playground(tmp_path):
    with serving(cwd=tmp_path) as url, browsing(url) as (page, errors):
        assert [page.inner_text(f"#level-{number} label") for number in range(3)] == ["humor", "helpful", "harmless"]
        [run] = tmp_path.glob("runs/playground-*")
        scores = ScoreMatrix.from_parquet(run / "scores.parquet")
        quantiles = dict.fromkeys(scores.values, 0.7)
        wait_for_verdict(page, f"{solve_dual(scores, Palette.of(scores, quantiles=quantiles)).kl:.3f} nats")
        page.wait_for_selector("#samples td")
        assert page.input_value("#command textarea").startswith("mapft run palette=custom palette.name=mine")
        assert errors == []


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
    path.write_text(f"prompt_id,a,b,response\n0,1.0,2.0,x\n0,{cell},1.0,{HOSTILE.replace(',', '')}\n", "utf-8")
    with pytest.raises(UserError, match=message):
        open_scores(path)


def test_a_hostile_name_of_a_value_is_escaped(tmp_path):
    path, scores = tmp_path / "scores.csv", matrix()
    table = pd.DataFrame(scores.scores, columns=[HOSTILE, "**bold** [x](javascript:window.hacked=1)", "plain"])
    table.insert(0, "prompt_id", scores.prompt_ids)
    table.to_csv(path, index=False)
    with serving(path) as url, browsing(url) as (page, errors):
        set_level(page, 0, 0.55)
        page.wait_for_function("document.querySelector('#levels').innerText.includes('onerror')")
        page.wait_for_timeout(500)
        assert page.evaluate("window.hacked") is None
        assert page.query_selector("img[src=x], a[href^=javascript]") is None
        assert "window.hacked=1" in page.inner_text("#level-0")
        assert page.input_value("#command textarea").startswith(
            "Save the palette, copy its file to conf/palette, and run"
        )
        (tmp_path / "palettes").mkdir()
        (tmp_path / "palettes" / "other.yaml").write_text("quantiles: {gone: 0.5}")
        page.reload()
        errors.clear()  # Gradio's, of requests that the reload interrupted
        page.wait_for_selector("#verdict .verdict")
        page.click("#saved input")
        page.click("[role=option]:has-text('other')")
        page.click("#load")
        page.wait_for_selector("text=is not a palette of these values")
        page.wait_for_timeout(500)
        assert HOSTILE[:20] in page.inner_text("body")
        assert page.evaluate("window.hacked") is None
        assert page.query_selector("img[src=x], script:has-text('hacked')") is None
    assert not errors


def test_scores_with_texts_in_a_csv(tmp_path):
    path = tmp_path / "scores.csv"
    pd.DataFrame(
        {"prompt_id": [0, 0, 1, 1], "a": [0.0, 1, 2, 3], "prompt": list("ppqq"), "response": list("wxyz")}
    ).to_csv(path, index=False)
    board, folder, command = open_scores(path)
    assert board.prompt_texts == {0: "p", 1: "q"}
    assert (board.responses, folder, command) == (list("wxyz"), tmp_path / "palettes", "mapft run 'rewards=[a]'")


def test_texts_that_read_as_missing_values_are_kept(tmp_path):
    path = tmp_path / "scores.csv"
    path.write_text("prompt_id,a,response\n0,1.0,None\n0,2.0,NA\n1,1.0,\n1,2.0,null\n")
    board, _, _ = open_scores(path)
    assert (board.prompt_texts, board.responses) == ({0: "", 1: ""}, ["None", "NA", "", "null"])
    view = board.view(Palette({"a": 1.6}))
    assert "None" in html.samples(board, view, 0)
    pd.DataFrame({"prompt_id": [0, 0], "a": [1.0, 2.0], "response": [3, 4]}).to_parquet(tmp_path / "scores.parquet")
    with pytest.raises(UserError, match="column response of .* holds 3, which is not text"):
        open_scores(tmp_path / "scores.parquet")
