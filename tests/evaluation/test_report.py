"""The closing table at 80 columns, and the report as a browser and a strict parser read it. Truth: what was put in."""

import csv
import json
from dataclasses import replace
from io import StringIO
from pathlib import Path

import html5lib
import pytest

from mapft.config import EvaluationConfig
from mapft.config.run_folder import RunFolder
from mapft.evaluation import report
from mapft.evaluation.levels import summarize
from mapft.evaluation.result import Estimate
from mapft.palette import Palette, ScoreMatrix, explain, solve_dual
from mapft.utils.terminal import make_console
from tests.evaluation.results import evaluation, responses, value_result
from tests.ui.browser import CHROMIUM

HOSTILE = [
    "<script>document.title = 'taken'</script>",
    "</td></table><img src=x onerror=alert(1)>",
    "&lt;b&gt; \"quoted\" 'single' {{ 7 * 7 }}",
    "\x00\x08\x1b[31m \ufffe \x85",
    "x" * 9000,
    "שלום \u202e evil",
]
SETTINGS = {"model": {"path": "</pre><script>1</script>"}, "palette": {"name": "custom"}}


def printed(result, width: int = 80) -> str:
    console = make_console(record=True, width=width, file=StringIO())
    report.print_closing(result, console)
    return console.export_text()


def test_the_closing_table_of_the_quickstart_at_80_columns():
    values = {
        "humor": value_result(base=-0.25, target=0.512, lam=0.942, predicted=0.512, gap_sd=-0.215, met=False),
        "helpful": value_result(base=1.12, target=1.701, lam=1.26, predicted=1.701),
        "harmless": value_result(base=0.9, target=None, lam=0.0, gap_sd=None, met=None),
    }
    lam = {"humor": 0.942, "helpful": 1.33, "harmless": 0.0}
    convergence = {"price_ratio": Estimate(1.258, 1.16, 1.37), "kl_to_target": Estimate(0.205, 0.183, 0.227)}
    result = evaluation(values, lam=lam, **convergence)
    assert [line.rstrip() for line in printed(result).splitlines()] == [
        "Predicted and realized on 7 held-out prompts",
        "                                                     realized     gap  within",
        "value       base  target     lambda  predicted         ± 95 %    (sd)  0.1 sd",
        "─────────────────────────────────────────────────────────────────────────────",
        "humor     -0.250   0.512      0.942      0.512  1.480 ± 0.120  -0.215      no",
        "helpful    1.120   1.701  1.26→1.33      1.701  1.480 ± 0.120  -0.020     yes",
        "harmless   0.900    free       0.00      1.500  1.480 ± 0.120",
        f"KL to the base policy: {result.kl_predicted:.3f} nats predicted, 0.200 [0.100, 0.300] measured.",
        "Price ratio: 1.26 [1.16, 1.37] times the least KL that has the realized levels.",
        "KL to p_lam: 0.205 [0.183, 0.227] nats.",
        "The policy has not converged: its KL to p_lam is above 0.05 nats, which takes about 25,000 more responses "
        "(the KL falls about as 1/responses), or a larger adapter.",
        "Adapter: adapter",
    ]


def test_a_policy_that_has_converged_and_a_lambda_with_its_error():
    near = {"kl_to_target": Estimate(0.06, 0.04, 0.08), "lam": {"a": 0.625}, "lam_error": {"a": 0.0312}}
    text = printed(evaluation({"a": value_result()}, **near))
    assert "0.500→0.625" in text
    assert "Standard error of the last estimate of lambda: a 0.031." in text
    assert "KL to p_lam: 0.060 [0.040, 0.080] nats." in text
    assert "not converged" not in text


def test_a_baseline_has_no_predicted_levels():
    convergence = {"price_ratio": Estimate(1.5, 1.2, 1.8), "kl_to_target": Estimate(0.3, 0.2, 0.4)}
    baseline = {"mode": "dpo", "aims_at_palette": False, "lam": None, "confidence": 0.9}
    text = printed(evaluation({"a": value_result()}, **baseline, **convergence))
    [row] = [line for line in text.splitlines() if line.startswith("a ")]
    assert row.split() == ["a", "0.000", "1.500", "1.480", "±", "0.120", "-0.020", "yes"]
    assert "mode=dpo is a baseline" in text
    assert "predicted," not in text
    assert "Price ratio: 1.50 [1.20, 1.80]" in text
    assert "p_lam" not in text


def test_a_table_that_is_too_wide_is_printed_as_records():
    name = "truthfulness_of_statements"
    text = printed(evaluation({name: value_result(base=-2.871, target=-2.871, lam=12.759)}, lam={name: 0.0042}))
    assert name in text.splitlines()
    assert "  lambda           12.8→0.00420" in text.splitlines()
    assert "…" not in text


def test_visits_and_an_adjusted_palette_are_reported():
    visits = [{"skipped": False}, {"skipped": True}]
    text = printed(evaluation({"a": value_result()}, visits=visits, end="every target is met.", adjusted=True))
    assert "2 visits, 1 of them skipped: every target is met." in text
    assert "The requested palette is infeasible; these are the targets of the nearest feasible one." in text


def pilot():
    matrix = ScoreMatrix([[0.0, 1.0], [2.0, 3.0]] * 2, ["a", "<i>b"], [0, 0, 1, 1])
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
    values, policies = summarize(tables, solution, matrix.sd, EvaluationConfig(), seed=0)
    result = evaluation(values, policies=policies, solution=solution, lam=solution.lam, adjusted=True)
    result = replace(result, requested={"a": 9.0}, targets_from={"absolute": {"a": 9.0}}, adapter="/runs/[red]x[/b]")
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "radar.svg").write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" width="200" height="200"><circle r="9"/></svg>'
    )
    captions, explanation = {"radar": "A <caption>."}, explain(matrix, solution)
    content = report.Report(result, tables, captions, explanation, SETTINGS, "mapft run '<b>'", {"torch": "2.13.0"})
    report.write_report(content, RunFolder(tmp_path))
    return tmp_path


def test_the_page_is_valid_html_and_shows_hostile_text_as_text(written):
    page = (written / "report.html").read_text("utf-8")
    tree = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(page)
    assert not tree.findall(".//script")
    assert len(tree.findall(".//img")) == 1
    shown = ["".join(cell.itertext()) for cell in tree.findall(".//td[@class='text']")]
    for hostile in HOSTILE[:3]:
        assert hostile in shown
    assert max(map(len, shown)) < 4100
    text = " ".join(" ".join(tree.itertext()).split())
    assert "absolute: a 9" in text
    assert "Requested: a 9" in text
    for line in explain(*pilot()).splitlines():
        assert " ".join(line.split()) in text
    assert "mapft run '<b>'" in text
    assert json.dumps(SETTINGS, indent=2) in "".join(tree.itertext())
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
    assert "| a " in text.split("## All policies")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:4]] for line in text.splitlines() if line.startswith("|")]
    assert ["tuned", "a", "1.4"] in rows


def test_the_verdict_is_one_sentence():
    result = evaluation({"a": value_result(), "b": value_result(met=None)})
    assert report.verdict(result) == "Every target is met within 0.1 sd on 7 held-out prompts: a."
    constant = replace(result, values={"b": value_result(met=None)})
    assert report.verdict(constant) == "No target can be judged: the scores of every value with a target are constant."
    missed = replace(result, values=result.values | {"c": value_result(met=False)})
    assert report.verdict(missed) == "1 of 2 targets are missed by more than 0.1 sd on 7 held-out prompts: c."


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (apt-get install chromium)")
def test_a_browser_shows_it_without_messages_or_requests(written):
    """No message on the console, no request but the file itself, and the figures are there."""
    from playwright.sync_api import sync_playwright

    events: list[str] = []
    with sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 400, "height": 800})
        page.on("console", lambda message: events.append(message.text))
        page.on("pageerror", lambda error: events.append(str(error)))
        page.on("request", lambda request: events.append(request.url) if not request.url.startswith("file") else None)
        page.goto((written / "report.html").as_uri())
        assert page.title() == "</pre><script>1</script> at the palette custom"
        assert page.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
        assert page.evaluate("document.documentElement.scrollWidth <= 400")
        page.locator("summary").first.click()
        assert page.locator("td.text").first.is_visible()
        browser.close()
    assert [text for text in events if not text.startswith("data:")] == []
