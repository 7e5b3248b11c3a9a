"""The closing table at 80 columns, and the report as a browser and a strict parser read it. Truth: what was put in."""

import base64
import csv
import hashlib
import json
from contextlib import contextmanager
from dataclasses import replace
from io import StringIO
from pathlib import Path

import html5lib
import pytest

from mapft.config import EvaluationConfig
from mapft.config.run_folder import RunFolder
from mapft.evaluation import closing, report, style
from mapft.evaluation.figures import run_figures
from mapft.evaluation.levels import summarize
from mapft.evaluation.result import Estimate
from mapft.palette import Palette, ScoreMatrix, explain, solve_dual
from mapft.utils.terminal import make_console
from tests import axe
from tests.evaluation.results import evaluation, responses, value_result
from tests.ui.browser import CHROMIUM

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (apt-get install chromium)")
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
    closing.print_closing(result, console)
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
        "The policy has not converged: its KL to p_lam is above 0.05 nats, which takes at least 25,000 more responses "
        "(the KL falls as 1/responses at best), or a larger adapter.",
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


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    tmp_path = tmp_path_factory.mktemp("run")
    matrix, solution = pilot()
    texts = [*HOSTILE, *(f"an ordinary text {number}" for number in range(14))]
    n = len(texts)
    base = responses(list(range(n)), a=[1.0] * n, **{"<i>b": [0.5] * n})
    tuned = responses(list(range(n)), a=[1.4] * n, kl=[0.2] * n, response=texts, prompt=texts, **{"<i>b": [0.5] * n})
    tables = {"base": base, "tuned": tuned}
    values, policies = summarize(tables, solution, matrix.sd, EvaluationConfig(), seed=0)
    result = evaluation(values, policies=policies, solution=solution, lam=solution.lam, adjusted=True)
    result = replace(result, requested={"a": 9.0}, targets_from={"absolute": {"a": 9.0}}, adapter="/runs/[red]x[/b]")
    captions, explanation = run_figures(RunFolder(tmp_path), matrix, result, tables), explain(matrix, solution)
    content = report.Report(result, tables, captions, explanation, SETTINGS, "mapft run '<b>'", {"torch": "2.13.0"})
    report.write_report(content, RunFolder(tmp_path))
    return tmp_path


def test_the_page_is_valid_html_and_shows_hostile_text_as_text(written):
    page = (written / "report.html").read_text("utf-8")
    tree = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(page)
    [script] = tree.findall(".//script")
    digest = base64.b64encode(hashlib.sha256(script.text.encode()).digest()).decode()
    policy = next(meta.get("content") for meta in tree.findall(".//meta") if meta.get("http-equiv"))
    assert policy.startswith("default-src 'none'")
    assert policy.endswith(f"script-src 'sha256-{digest}'")
    assert not tree.findall(".//img")
    ids = [element.get("id") for element in tree.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    shown = ["".join(cell.itertext()) for cell in tree.findall(".//p[@class='response']")]
    for hostile in HOSTILE[:3]:
        assert hostile in shown
    assert max(map(len, shown)) < 4100
    text = " ".join(" ".join(tree.itertext()).split())
    assert "Targets by absolute: a 9" in text
    assert "Requested: a 9" in text
    assert "The targets that were asked for are infeasible" in text
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


def test_the_answer_is_one_sentence():
    least = ", at a KL of 0.20 nats from the base policy."
    both = evaluation({"a": value_result(), "b": value_result()})
    assert closing.answer(both) == f"All 2 targets are met{least}"
    free = evaluation({"a": value_result(), "b": value_result(gap_sd=None, met=None)})
    assert closing.answer(free) == f"The target is met{least}"
    constant = replace(both, values={"b": value_result(gap_sd=None, met=None)})
    assert closing.answer(constant).startswith("No target can be judged, because the scores of every value")
    missed = replace(both, values=both.values | {"c": value_result(gap_sd=-0.25, met=False)})
    priced = replace(missed, price_ratio=Estimate(1.258, 1.16, 1.37))
    assert closing.answer(priced) == (
        "2 of 3 targets are met (c is 0.25 sd short), at a KL of 0.20 nats from the base policy; the least for these "
        "levels is 0.16 (price ratio 1.26)."
    )
    assert closing.answer(replace(both, price_ratio=Estimate(0.3, 0.0, 12.0))) == f"All 2 targets are met{least}"
    none = replace(both, values={"c": value_result(gap_sd=-0.25, met=False)})
    assert closing.answer(none) == f"The target is missed (c is 0.25 sd short){least}"


def test_the_three_questions():
    """lambda: 1.96 * .1 * sd against the tolerance of .1 sd. Convergence: the interval against CONVERGED = .05."""
    base = evaluation({"a": value_result(sd=0.4)}, scored=1000)
    for changes, expected in (
        ({}, ["As the pilot has it", "Not measured", "0.20 nats"]),
        ({"lam_error": {"a": 0.1}}, ["Yes", "Not measured", "0.20 nats"]),
        ({"lam_error": {"a": 0.2}, "price_ratio": Estimate(1.5, 1.4, 1.6)}, ["Not precisely", "Not measured", "1.50"]),
        ({"kl_to_target": Estimate(0.1, 0.06, 0.14)}, ["As the pilot", "Not yet", "0.20"]),
        ({"kl_to_target": Estimate(0.04, 0.02, 0.06)}, ["As the pilot", "Within noise", "0.20"]),
        ({"kl_to_target": Estimate(0.02, 0.01, 0.04)}, ["As the pilot", "Yes", "0.20"]),
        ({"aims_at_palette": False, "mode": "dpo"}, ["As the pilot", "Does not apply", "0.20"]),
    ):
        answers = [question.answer for question in closing.questions(replace(base, **changes))]
        for answer, begin in zip(answers, expected, strict=True):
            assert answer.startswith(begin)
    known, converged, _ = closing.questions(replace(base, lam_error={"a": 0.1}, kl_to_target=Estimate(0.1, 0.06, 0.14)))
    assert "moves a level by about 0.08 sd at most" in known.sentences[0]
    assert "at least 1,000 more responses" in converged.sentences[1]
    assert [known.good, converged.good] == [True, False]


@contextmanager
def browsing(path: Path, **context):
    """(page, events): what the console said, and every request but that for the file itself."""
    from playwright.sync_api import sync_playwright

    events: list[str] = []
    with sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(**context)
        page.on("console", lambda message: events.append(message.text))
        page.on("pageerror", lambda error: events.append(str(error)))
        page.on("dialog", lambda dialog: events.append(dialog.message))
        page.on("request", lambda request: events.append(request.url))
        page.goto(path.as_uri())
        yield page, events
        browser.close()
    assert [event for event in events if not event.startswith(("data:", path.as_uri()))] == []


@needs_browser
def test_a_browser_shows_it_on_a_telephone_and_nothing_hostile_runs(written):
    """390 pixels: nothing scrolls sideways but what is in a frame of its own; the figures are those for a column."""
    with browsing(written / "report.html", viewport={"width": 390, "height": 800}) as (page, _):
        assert page.title() == "</pre><script>1</script> at the palette custom"
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        assert page.locator("figure .narrow svg").first.is_visible()
        assert not page.locator("figure .wide svg").first.is_visible()
        assert HOSTILE[0] in page.locator(".response").first.inner_text()
        page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
        assert page.evaluate("document.documentElement.scrollWidth") == 390


@needs_browser
def test_search_shows_the_samples_with_all_words(written):
    with browsing(written / "report.html", viewport={"width": 1024, "height": 800}) as (page, _):
        samples, field = page.locator(".sample:visible"), page.get_by_role("searchbox")
        assert samples.count() == 8
        page.get_by_role("button", name="Show all").click()
        assert samples.count() == 20
        field.fill("ORDINARY 13")
        assert samples.count() == 1
        assert "an ordinary text 13" in samples.first.inner_text()
        assert page.locator("output").inner_text() == "1 of 20"
        field.fill("no such words")
        assert samples.count() == 0
        field.fill("<script>")
        assert samples.count() == 1


@needs_browser
def test_figures_and_text_follow_dark_and_print(written):
    """Truth: the colors of the style, as the browser computes them for page, text and figure."""
    colors = """() => [
        getComputedStyle(document.documentElement).backgroundColor,
        getComputedStyle(document.querySelector("h1")).color,
        getComputedStyle(document.querySelector("figure .wide svg text")).fill,
    ]"""

    def rgb(palette, *names):
        return [f"rgb{tuple(int(palette[name][n : n + 2], 16) for n in (1, 3, 5))}" for name in names]

    with browsing(written / "report.html", color_scheme="dark", viewport={"width": 1400, "height": 800}) as (page, _):
        background, *texts = page.evaluate(colors)
        assert [background, texts[0]] == rgb(style.DARK, "paper", "ink")
        assert texts[1] in rgb(style.DARK, "ink", "quiet")
        page.emulate_media(media="print")
        assert page.evaluate(colors)[:2] == rgb(style.LIGHT, "paper", "ink")
        assert not page.locator("nav").is_visible()


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_fault(written, scheme):
    if axe.source() is None:
        pytest.skip(f"{axe.PACKAGE} cannot be had from the npm registry")
    with browsing(written / "report.html", color_scheme=scheme, viewport={"width": 1024, "height": 800}) as (page, _):
        assert axe.serious_faults(page) == []
