"""The page in a real browser, on run folders written by the test. Truth: mapft.palette, and the files on disk."""

import re
import shlex

import pandas as pd
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from mapft.palette import Palette, ScoreMatrix, adjust, bootstrap, largest_levels, solve_dual
from mapft.palette.explain import infeasibility_sentence
from mapft.ui.page import METHODS
from tests import axe
from tests.ui.browser import CHROMIUM, launched, opened, serving, set_level, wait_for_verdict
from tests.ui.scores import matrix, scored_run, trained_run

HOSTILE = "<img src=x onerror=window.hacked=1>${window.hacked=1}{{window.hacked=1}}<script>window.hacked=1</script>"
QUANTILES = {"value_0": 0.6, "value_1": 0.55, "value_2": 0.5}
HIGH = {"value_0": 1.0, "value_1": 1.0, "value_2": 0.5}
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (apt-get install chromium)")


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The page of a scored run with hostile texts."""
    with serving(scored_run(tmp_path_factory.mktemp("runs") / "run-mine-0", HOSTILE)) as url:
        yield url


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The page of a trained and evaluated run with hostile texts."""
    with serving(trained_run(tmp_path_factory.mktemp("trained") / "run", HOSTILE)) as url:
        yield url


@pytest.fixture(scope="module")
def browser():
    with launched() as chromium:
        yield chromium


@pytest.fixture
def browsed(browser, served):
    with opened(browser, served) as page_and_errors:
        yield page_and_errors
        assert page_and_errors[1] == []


def quantiles(levels: dict[str, float]) -> Palette:
    return Palette.of(matrix(), quantiles=levels)


def set_quantiles(page, levels: dict[str, float]) -> Palette:
    for number, level in enumerate(levels.values()):
        set_level(page, number, level)
    return quantiles(levels)


def positions(page) -> list[str]:
    """What the sliders' number fields show."""
    return [page.input_value(f"#level-{number} input[type=number]") for number in range(3)]


def wait_for_command(page, text: str) -> None:
    page.wait_for_function("text => document.querySelector('#command').textContent.includes(text)", arg=text)


def test_sliders_show_verdict_levels_prices_bands_and_the_command(browsed):
    page, _ = browsed
    palette = set_quantiles(page, QUANTILES)
    scores, solution = matrix(), solve_dual(matrix(), palette)
    wait_for_verdict(page, f"{solution.kl:.3f} nats")
    price = solution.lam["value_0"] * scores.sd["value_0"] / 10
    assert f"+0.1 sd costs {price:.2f} nats" in page.inner_text("#level-0")
    assert f"{solution.lam['value_0']:.3f}" in page.inner_text("#levels")
    assert f"{solution.ess:.0f} of 400" in page.inner_text("#figures .ess dd").replace("\n", " ")
    wait_for_command(page, "value_2=0.5")
    command = page.inner_text("#command")
    assert command.startswith("mapft run experiment=own seed=3 palette=custom palette.name=mine")
    overrides = OverridesParser.create().parse_overrides(shlex.split(command)[2:])
    settings = {override.key_or_group: override.value() for override in overrides}
    assert {name: settings.pop(f"palette.quantiles.{name}") for name in QUANTILES} == QUANTILES
    assert settings == {"experiment": "own", "seed": 3, "palette": "custom", "palette.name": "mine"}
    bands = bootstrap(scores, solution, replications=400)
    page.wait_for_selector(f"#figures .kl small:has-text('{bands.kl.low:.2f} to {bands.kl.high:.2f}')")
    level = bands.predicted["value_1"]
    assert f"{level.low:.2f} to {level.high:.2f}" in page.inner_text("#levels tbody tr:nth-child(2)")


def test_the_limit_is_marked_on_each_slider_and_moves_with_the_others(browsed):
    page, _ = browsed
    page.check("#unit input[value=absolute]", force=True)
    for first in (0.2, 1.2):
        targets = {"value_0": first, "value_1": 0.3, "value_2": 0.1}
        for number, level in enumerate(targets.values()):
            set_level(page, number, level)
        for number, limit in enumerate(largest_levels(matrix(), Palette(targets)).values()):
            page.wait_for_selector(f"#level-{number} .mark.limit span:has-text('limit {limit:.2f}')", state="attached")
            mark, track = (page.locator(f"#level-{number} {part}").bounding_box() for part in (".mark.limit", ".marks"))
            low, high = (float(page.get_attribute(f"#level-{number} input[type=range]", end)) for end in ("min", "max"))
            share = (limit - low) / (high - low)
            assert mark["x"] + mark["width"] / 2 == pytest.approx(track["x"] + share * track["width"], abs=1.5)


def test_the_nearest_palettes_are_previewed_and_taken(browsed):
    page, _ = browsed
    for method in METHODS:
        if page.is_hidden("#unit input[value=quantile]:checked"):
            page.check("#unit input[value=quantile]", force=True)
            page.wait_for_selector("#level-0 input[type=number][max='1']")
        requested = set_quantiles(page, HIGH)
        solution = solve_dual(matrix(), requested)
        wait_for_verdict(page, "Infeasible: ")
        page.wait_for_selector(f"#proof:has-text('{infeasibility_sentence(matrix(), solution)}')")
        nearest = adjust(matrix(), requested, method)
        card = page.locator(f".near:has(#{method})")
        card.wait_for()
        card.locator(f"text=Use this: {nearest.solution.kl:.2f} nats").wait_for()
        changed = next(name for name in requested.targets if nearest.new.targets[name] < requested.targets[name])
        assert f"→ {nearest.new.targets[changed]:.3f}" in card.inner_text()
        page.mouse.move(0, 0)
        page.wait_for_selector("#plot .ghost", state="detached")
        card.hover()
        page.wait_for_selector("#plot .ghost", state="attached")
        wait_for_verdict(page, "Infeasible: ")  # a preview changes nothing
        assert page.is_disabled("#copy-command")
        page.click(f"#{method}")
        wait_for_verdict(page, f"{nearest.solution.kl:.3f} nats")
        assert page.is_enabled("#copy-command")
        page.wait_for_selector("#nearest", state="hidden")


def plotted(page) -> dict[str, float]:
    box = page.locator("#plot .handle .target").bounding_box()
    return {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}


def test_the_palette_is_dragged_clicked_and_moved_by_keys_in_the_region(browsed):
    page, _ = browsed
    page.wait_for_selector("#plot polygon.region", state="attached")
    page.locator("#plot").scroll_into_view_if_needed()
    start, before = plotted(page), positions(page)
    page.mouse.move(start["x"], start["y"])
    page.mouse.down()
    page.mouse.move(start["x"] + 30, start["y"] + 20, steps=4)
    page.mouse.up()
    end, after = plotted(page), positions(page)
    assert (end["x"] - start["x"], end["y"] - start["y"]) == pytest.approx((30, 20), abs=2)
    assert float(after[0]) > float(before[0])
    assert (after[1], float(after[2]) < float(before[2])) == (before[1], True)
    targets = quantiles(dict(zip(QUANTILES, map(float, after), strict=True)))
    wait_for_verdict(page, f"{solve_dual(matrix(), targets).kl:.3f} nats")

    page.mouse.click(start["x"], start["y"])
    assert plotted(page) == pytest.approx(start, abs=2)
    page.keyboard.press("ArrowRight")
    assert plotted(page)["x"] > start["x"] + 2
    assert plotted(page)["y"] == pytest.approx(start["y"], abs=0.1)
    page.keyboard.press("Shift+ArrowUp")
    assert plotted(page)["y"] < start["y"] - 10

    page.mouse.move(start["x"] - 20, start["y"] + 15)
    page.wait_for_function(
        "() => /value_0 .*, value_2 .*: [0-9.]+ nats/.test(document.querySelector('#hover').innerText)"
    )


def test_a_link_restores_the_state(browser, served, browsed):
    page, _ = browsed
    set_quantiles(page, QUANTILES)
    page.uncheck("#target-1")
    page.select_option("#second", "1")
    page.click("#prompts li:nth-child(3) button")
    solution = solve_dual(matrix(), quantiles({"value_0": 0.6, "value_2": 0.5}))
    wait_for_verdict(page, f"{solution.kl:.3f} nats")
    page.wait_for_function("() => location.hash.includes('pair=0-1') && location.hash.includes('prompt=2')")
    with opened(browser, page.url) as (other, errors):
        wait_for_verdict(other, f"{solution.kl:.3f} nats")
        assert positions(other) == ["0.6", "", "0.5"]
        assert not other.is_checked("#target-1")
        assert (other.input_value("#first"), other.input_value("#second")) == ("0", "1")
        other.wait_for_selector("#prompts li:nth-child(3) button[aria-pressed=true]")
        assert errors == []
    for broken in ("#unit=percent&t=1&t=1&t=1&pair=0-1", "#unit=sd&t=1&pair=0-1", "#unit=sd&t=x&t=1&t=1&pair=0-9"):
        with opened(browser, served + "/" + broken) as (other, errors):
            assert positions(other) == ["0.7", "0.7", "0.7"]
            assert errors == []


def test_a_palette_is_saved_and_loaded(browsed):
    page, _ = browsed
    set_quantiles(page, QUANTILES)
    page.fill("#name", "gentle")
    page.click("#save")
    page.wait_for_selector("#message:has-text('gentle.yaml')")
    set_quantiles(page, dict.fromkeys(QUANTILES, 0.52))
    page.select_option("#saved", "gentle")
    page.click("#load")
    wait_for_verdict(page, f"{solve_dual(matrix(), quantiles(QUANTILES)).kl:.3f} nats")
    assert positions(page) == ["0.6", "0.55", "0.5"]


def test_a_trained_run_shows_its_answers_and_realized_levels(browser, trained):
    with opened(browser, trained) as (page, errors):
        wait_for_verdict(page, f"{solve_dual(matrix(), Palette({'value_0': 0.5, 'value_1': 0.25})).kl:.3f} nats")
        assert not page.is_checked("#target-2")
        assert "0.450 ± 0.050" in page.inner_text("#levels tbody tr:nth-child(1)")
        assert "0.200 nats" in page.inner_text("#figures .tuned").replace("\n", " ")
        assert page.locator("#level-0 .mark.tuned").is_visible()
        assert "trained model 0.450 ± 0.050" in page.inner_text("#level-0 .note")
        assert "measured" in page.inner_text("#figures .tuned")
        page.check("#measured input[value=true]", force=True)
        page.fill("#search", "prompt 2")
        page.wait_for_selector("#found:has-text('1 prompts')")
        page.click("#prompts button")
        page.wait_for_selector("#answers .two:has-text('of base 4')")
        base, tuned = page.locator("#answers .two > div").all_inner_texts()
        assert "of tuned" not in base
        assert "of tuned 5" in tuned
        set_level(page, 0, 0.5)
        page.wait_for_selector("#figures .tuned:has-text('for its own targets')")
        page.click("#trained")
        wait_for_verdict(page, f"{solve_dual(matrix(), Palette({'value_0': 0.5, 'value_1': 0.25})).kl:.3f} nats")
        assert errors == []


def test_few_effective_samples_are_a_warning(browsed):
    page, _ = browsed
    page.check("#unit input[value=absolute]", force=True)
    for number in (1, 2):
        page.uncheck(f"#target-{number}")
    set_level(page, 0, round(0.9 * largest_levels(matrix(), Palette({"value_0": 0.0}))["value_0"], 3))
    wait_for_verdict(page, "effective samples only")
    assert "Few samples: " in page.inner_text("#warnings")
    page.wait_for_selector("#nearest:visible")


def test_without_a_target_there_is_nothing_to_run(browser, served):
    with opened(browser, served) as (page, _):  # the browser reports each refused request
        for number in range(3):
            page.uncheck(f"#target-{number}")
        wait_for_verdict(page, "The palette has no target; tick a value.")
        assert page.is_disabled("#copy-command")
        page.check("#target-0")
        wait_for_verdict(page, "Feasible: ")
        assert page.is_enabled("#copy-command")


def test_texts_of_a_file_are_not_executed(browsed):
    page, _ = browsed
    page.wait_for_selector("#answers li")
    assert "<img src=x" in page.inner_text("#answers")
    assert "<img src=x" in page.inner_text("#prompts")
    assert page.evaluate("window.hacked") is None
    assert page.query_selector("main img, main script") is None


def test_a_hostile_name_of_a_value_is_text(browser, tmp_path):
    path, scores = tmp_path / "scores.csv", matrix()
    table = pd.DataFrame(scores.scores, columns=[HOSTILE, "__proto__", "toString"])
    table.insert(0, "prompt_id", scores.prompt_ids)
    table.to_csv(path, index=False)
    with serving(path) as url, opened(browser, url) as (page, errors):
        set_level(page, 0, 0.55)
        page.wait_for_function("() => document.querySelector('#levels').innerText.includes('onerror')")
        page.wait_for_selector("#plot polygon.region", state="attached")
        assert HOSTILE in page.inner_text("#level-0")
        assert "__proto__" in page.inner_text("#levels tbody tr:nth-child(2)")
        assert page.evaluate("window.hacked") is None
        assert page.query_selector("main img, main script") is None
        wait_for_command(page, "Save the palette, copy its file to conf/palette, and run")
        assert errors == []


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 1024, 390])
def test_every_width_and_theme_is_accessible(browser, trained, width, theme):
    """No horizontal scrolling, texts that stand out, and no serious fault that axe-core finds."""
    with opened(browser, trained, width, color_scheme=theme) as (page, errors):
        page.wait_for_selector("#plot polygon.region", state="attached")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        style = "getComputedStyle(document.querySelector('{}')).{}"
        ink, paper = (
            page.evaluate(style.format(*part)) for part in (("#plot text", "fill"), ("body", "backgroundColor"))
        )
        dark, light = sorted((ink, paper), key=brightness)
        assert brightness(light) - brightness(dark) > 300
        assert (brightness(paper) < 384) == (theme == "dark")
        unnamed = "[...document.querySelectorAll('input, select, button')].filter(each => !each.labels?.length && "
        assert page.evaluate(f"{unnamed} !each.ariaLabel && !each.innerText.trim()).length") == 0
        assert errors == []
        if axe.source() is None:
            pytest.skip("axe-core is not available from npm; labels, width and contrast of texts were checked")
        assert axe.serious_faults(page) == []
        if width == 1400:
            set_level(page, 0, 1)
            set_level(page, 1, 1)
            page.wait_for_selector(".near")
            assert axe.serious_faults(page) == []


def brightness(color: str) -> float:
    return sum(map(float, re.findall(r"[\d.]+", color)[:3]))


def test_touch_moves_the_palette_on_a_narrow_screen(browser, trained):
    with opened(browser, trained, 390, has_touch=True, is_mobile=True) as (page, errors):
        page.wait_for_selector("#plot polygon.region", state="attached")
        page.locator("#plot").scroll_into_view_if_needed()
        frame, before = page.locator("#plot .frame").bounding_box(), positions(page)
        page.touchscreen.tap(frame["x"] + 0.4 * frame["width"], frame["y"] + 0.5 * frame["height"])
        assert positions(page)[0] != before[0]
        assert page.locator("#plot .handle .grip").bounding_box()["width"] >= 40
        page.locator("#level-0").scroll_into_view_if_needed()
        assert page.locator("#verdict").bounding_box()["y"] >= 0, "the verdict stays in view beside the sliders"
        assert errors == []


@pytest.mark.slow
def test_without_scores_the_page_shows_those_of_the_playground(tmp_path, browser):
    with serving(cwd=tmp_path) as url, opened(browser, url) as (page, errors):
        assert page.locator(".slider .name").all_inner_texts() == ["humor", "helpful", "harmless"]
        [run] = tmp_path.glob("runs/playground-*")
        scores = ScoreMatrix.from_parquet(run / "scores.parquet")
        quantiles = dict.fromkeys(scores.values, 0.7)
        wait_for_verdict(page, f"{solve_dual(scores, Palette.of(scores, quantiles=quantiles)).kl:.3f} nats")
        page.wait_for_selector("#answers li")
        wait_for_command(page, "mapft run palette=custom palette.name=mine")
        assert errors == []
