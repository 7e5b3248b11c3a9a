"""The report as a browser and a strict parser read it. Truth: what was put in."""

import csv
import json
from pathlib import Path

import html5lib
import pytest

from mapft.config import EvaluationConfig
from mapft.evaluation import report
from mapft.evaluation.realized import summarize
from mapft.palette import Palette, RewardMatrix, explain, solve_dual
from tests.evaluation.test_realized import responses
from tests.ui.browser import CHROMIUM

HOSTILE = [
    "<script>document.title = 'taken'</script>",
    "</td></table><img src=x onerror=alert(1)>",
    "&lt;b&gt; \"quoted\" 'single' {{ 7 * 7 }}",
    "\x00\x08\x1b[31m \ufffe \x85",
    "x" * 9000,
    "שלום \u202e evil",
]
RECORD = {
    "command": "mapft run '<b>'",
    "versions": {"torch": "2.13.0"},
    "config": {"model": {"path": "</pre><script>1</script>"}, "palette": {"name": "custom"}},
}


def pilot():
    matrix = RewardMatrix([[0.0, 1.0], [2.0, 3.0]] * 2, ["a", "<i>b"], [0, 0, 1, 1])
    return matrix, solve_dual(matrix, Palette({"a": 1.5}))


@pytest.fixture
def written(tmp_path) -> Path:
    matrix, solution = pilot()
    n = len(HOSTILE)
    base = responses(list(range(n)), a=[1.0] * n, **{"<i>b": [0.5] * n})
    tuned = responses(
        list(range(n)), a=[1.4] * n, kl=[0.2] * n, response=HOSTILE, prompt=HOSTILE, **{"<i>b": [0.5] * n}
    )
    tables = {"base": base, "tuned": tuned}
    summary = summarize(tables, solution, matrix.sd, EvaluationConfig(), seed=0)
    summary |= {
        "lam": solution.lam,
        "stages": [],
        "end": "",
        "adjusted": True,
        "asked": {"a": 9.0},
        "adapter": "/runs/[red]x[/b]",
    }
    summary |= {"mode": "simultaneous"}
    summary |= {"ways": {"absolute": {"a": 9.0}}}
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "radar.svg").write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" width="200" height="200"><circle r="9"/></svg>'
    )
    report.write_report(summary, tables, {"radar": "A <caption>."}, explain(matrix, solution), RECORD, tmp_path)
    return tmp_path


def test_the_page_is_valid_html_and_shows_hostile_text_as_text(written):
    page = (written / "report.html").read_text("utf-8")
    tree = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(page)
    assert not tree.findall(".//script")
    assert len(tree.findall(".//img")) == 1
    shown = ["".join(cell.itertext()) for cell in tree.findall(".//td[@class='text']")]
    for text in HOSTILE[:3]:
        assert text in shown
    assert max(map(len, shown)) < 4100
    said = " ".join(" ".join(tree.itertext()).split())
    assert "absolute: a 9" in said
    assert "Asked: a 9" in said
    for line in explain(*pilot()).splitlines():
        assert " ".join(line.split()) in said
    assert "mapft run '<b>'" in said
    assert json.dumps(RECORD["config"], indent=2) in "".join(tree.itertext())
    assert tree.find(".//details").get("open") is None
    assert "\x1b" not in page
    assert "\ufffe" not in page
    assert "<b>" not in page


def test_the_tables_hold_the_numbers(written):
    rows = list(csv.DictReader((written / "report.csv").read_text().splitlines()))
    assert [(row["policy"], row["value"]) for row in rows] == [
        ("base", "a"),
        ("base", "<i>b"),
        ("tuned", "a"),
        ("tuned", "<i>b"),
    ]
    assert float(rows[2]["level"]) == pytest.approx(1.4)
    assert float(rows[2]["win_rate"]) == 1
    text = (written / "report.md").read_text()
    assert "Adapter: /runs/[red]x[/b]" in text
    assert "| tuned | a | 1.4 |" in text


def test_the_verdict_is_one_sentence():
    value = {"met": True}
    summary = {"values": {"a": value, "b": {"met": None}}, "tolerance_sd": 0.1, "prompts": 7}
    assert report.verdict(summary) == "Every target is met within 0.1 sd on 7 held-out prompts: a."
    constant = summary | {"values": {"b": {"met": None}}}
    assert report.verdict(constant) == "No target can be judged: the scores of every value with one are constant."
    summary["values"]["c"] = {"met": False}
    assert report.verdict(summary).startswith("1 of 2 targets are missed by more than 0.1 sd on 7 held-out prompts: c.")


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (apt-get install chromium)")
def test_a_browser_shows_it_without_a_word(written):
    """No message on the console, no request but the file itself, and the pictures are there."""
    from playwright.sync_api import sync_playwright

    said: list[str] = []
    with sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 400, "height": 800})
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: said.append(request.url) if not request.url.startswith("file") else None)
        page.goto((written / "report.html").as_uri())
        assert page.title() == "</pre><script>1</script> at the palette custom"
        assert page.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
        assert page.evaluate("document.documentElement.scrollWidth <= 400")
        page.locator("summary").first.click()
        assert page.locator("td.text").first.is_visible()
        browser.close()
    assert [text for text in said if not text.startswith("data:")] == []
