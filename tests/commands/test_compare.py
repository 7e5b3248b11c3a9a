"""`mapft compare`. Truth: hand arithmetic on runs that hold only what the function under test reads."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from mapft.cli import main
from mapft.commands import compare, comparison
from mapft.commands.comparison import Point
from mapft.config import Choose, ComparisonConfig, EvaluationConfig, Method, PolicyConfig
from mapft.config.run_folder import RunFolder
from mapft.evaluation.result import Estimate, PolicyResult
from mapft.palette import Palette, ScoreMatrix, solve_dual
from mapft.training.modes import sequential
from mapft.training.modes.dpo import DPO
from mapft.training.modes.published import Published
from mapft.training.modes.scalarized import Scalarized
from mapft.training.modes.sequential import Sequential
from mapft.training.modes.simultaneous import Simultaneous
from mapft.training.modes.soup import Soup
from tests import worlds
from tests.worlds import SMALL, own


def run(mode=None, targets=None, sd=None, **comparison):
    targets = targets or {"a": 1.0, "b": 2.0}
    sd = sd or dict.fromkeys(targets, 1.0)
    config = SimpleNamespace(
        mode=mode or Simultaneous(name="simultaneous"),
        comparison=ComparisonConfig(**comparison),
        evaluation=EvaluationConfig(tolerance_sd=0.1),
        trainer=SimpleNamespace(total_episodes=500),
        seed=0,
    )
    matrix = type("Matrix", (), {"sd": sd, "__len__": lambda self: 40})()
    solution = SimpleNamespace(targets=targets)
    variant = lambda mode: SimpleNamespace(folder=RunFolder("elsewhere"))  # noqa: E731
    return SimpleNamespace(config=config, solution=solution, matrix=matrix, folder=RunFolder("here"), variant=variant)


def result(kl=0.0, **means):
    levels = {name: Estimate(mean, mean, mean) for name, mean in means.items()}
    zero = Estimate(0.0, 0.0, 0.0)
    return PolicyResult(levels, levels, Estimate(kl, kl, kl), zero, zero, zero, 10)


def test_targets_are_met_within_the_tolerance_and_constant_values_are_ignored():
    here = run(targets={"a": 1.0, "b": 2.0, "flat": 0.1}, sd={"a": 2.0, "b": 0.5, "flat": 0.0})
    assert compare.all_met(here, result(a=0.81, b=1.96, flat=0.0999))
    assert not compare.all_met(here, result(a=0.79, b=1.96, flat=0.1))
    assert not compare.all_met(here, result(a=0.81, b=1.94, flat=0.1))


def test_the_scored_responses_of_every_policy_are_counted(monkeypatch):
    visits = [SimpleNamespace(skipped=skipped) for skipped in (False, True, False)]
    monkeypatch.setattr(sequential, "read_visits", lambda folder: visits)
    own_mode = Sequential(name="sequential", visit_episodes=100)
    assert compare.scored_responses(run(mode=own_mode), own_mode) == 3 * 40 + 2 * 100
    for source, count in (
        (None, 0),
        (Simultaneous(name="simultaneous"), 500),
        (Scalarized(name="scalarized", weights={"a": 1.0}), 500),
        (Soup(name="soup", weights={"a": 0.5, "b": 0.5}), 1000),
        (Published(name="published"), 500),
        (DPO(name="dpo"), 0),
        (PolicyConfig(candidates=16), 16),
    ):
        assert compare.scored_responses(run(), source) == count


def test_counting_creates_no_run_folder(world, tmp_path):
    """The variants of a run are counted before any of them has been trained."""
    from mapft.pipeline.run import Run

    configs = []
    from mapft.commands.composed import with_config

    with_config(own(world, tmp_path, *SMALL), configs.append)
    whole = Run(configs[0])
    with whole.lock():
        pass
    whole.__dict__["matrix"] = [None] * 7
    before = sorted(tmp_path.rglob("*"))
    assert compare.scored_responses(whole, Scalarized(name="scalarized", weights={"vowels": 1.0})) == 128
    assert compare.scored_responses(whole, Sequential(name="sequential")) == 0
    assert sorted(tmp_path.rglob("*")) == before


def test_every_contender_has_its_own_name_and_source():
    here = run(random_weights=4, soup_steps=3, candidates=8, mode=DPO(name="dpo", beta=0.5))
    contenders = list(compare.contenders_of(here))
    names = [name for name, _, _ in contenders]
    assert len(set(names)) == len(names)
    sources = {name: source for name, _, source in contenders}
    assert sources["single a"].weights == {"a": 1.0}
    assert sources["dpo"].beta == 0.5
    assert sources["best_of_n n=8"].choose is Choose.best
    assert [source.weights for _, family, source in contenders if family == "soup"] == [
        {"a": pytest.approx(1 / 3), "b": pytest.approx(2 / 3)},
        {"a": pytest.approx(2 / 3), "b": pytest.approx(1 / 3)},
    ]
    mixtures = [source.weights for _, family, source in contenders if family == "morlhf"]
    assert len(mixtures) == 4
    assert all(sum(weights.values()) == pytest.approx(1, abs=2e-3) for weights in mixtures)
    assert compare.random_weights(["a", "b"], 50, 0) == compare.random_weights(["a", "b"], 50, 0)


def test_one_value_has_no_mixtures_and_constant_values_no_baseline():
    contenders = list(compare.contenders_of(run(targets={"a": 1.0, "flat": 0.1}, sd={"a": 1.0, "flat": 0.0})))
    assert {family for _, family, _ in contenders} == {"base", *(m.value for m in Method)} - {"morlhf", "soup"}
    assert [name for name, family, _ in contenders if family == "single"] == ["single a"]


def test_the_table_has_every_point_the_share_of_its_family_and_skipped_methods():
    points = {
        "base": Point("base", result(a=0.0, b=0.0), False, 0),
        "decoding": Point("decoding", result(0.5, a=1.5, b=2.5), True, 8),
        "single a": Point("single", result(0.7, a=1.5, b=1.0), False, 500),
        "single b": Point("single", result(0.7, a=1.5, b=2.0), True, 500),
    }
    text = comparison.markdown(run(), points, {"dpo": "No preference."})
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if "|" in line]
    assert rows[0] == ["policy", "a (gap in sd)", "b (gap in sd)", "KL (nats)", "scored", "all targets met"]
    assert ["decoding", "1.500 (+0.50)", "2.500 (+0.50)", "≤ 0.50", "8", "yes"] in rows
    assert "Points in the palette's quadrant: base 0/1, decoding 1/1, single 1/2." in text
    assert "Skipped: dpo. No preference." in text


def test_the_page_names_the_cheapest_policy_that_meets_the_palette(tmp_path):
    points = {
        "base": Point("base", result(a=0.0, b=0.0), False, 0),
        "<i>far": Point("published", result(3.0, a=1.5, b=2.5), True, 8),
        "best": Point("best_of_n", result(0.5, a=1.5, b=2.5), True, 8),
    }
    assert comparison.answer(points) == (
        "2 of 3 policies meet every target; best does so at the least KL, at most 0.50 nats."
    )
    assert comparison.answer({"base": points["base"]}) == "None of 1 policies meets every target."
    scores = np.random.default_rng(0).normal([0.8, 1.8], 1.0, size=(200, 2))
    matrix, of = ScoreMatrix(scores, ["a", "b"], np.repeat(np.arange(50), 4)), run()
    of.folder, of.matrix, of.config.model = RunFolder(tmp_path), matrix, SimpleNamespace(path="m")
    of.solution = solve_dual(of.matrix, Palette({"a": 1.0, "b": 2.0}))
    of.config.palette = SimpleNamespace(name="p")
    page = comparison.write_comparison(of, points, {"dpo": "<b>No</b> preference."}, 7).read_text()
    assert "at most 0.50 nats.</h1>" in page
    assert "Skipped: dpo. &lt;b&gt;No&lt;/b&gt; preference." in page
    assert "<i>far" not in page
    assert page.count('<svg role="img"') == 4


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return worlds.build(tmp_path_factory.mktemp("world"))


@pytest.mark.slow
def test_every_method_is_compared_once(world, tmp_path, capfd):
    targets = ["+palette.quantiles.judge=0.6", "sampling.samples_per_prompt=16"]
    sizes = ["comparison.random_weights=2", "comparison.soup_steps=2", "comparison.candidates=4"]
    arguments = ["compare", *own(world, tmp_path, *SMALL, *targets, *sizes, "mode=sequential", "mode.rounds=1")]
    arguments += ["mode.visit_episodes=64"]
    assert main(arguments) == 0
    [points] = tmp_path.glob("run-*/comparison/points.json")
    assert json.loads(points.read_text())["failed"] == {}
    families = [point["family"] for point in json.loads(points.read_text())["points"].values()]
    trained = ["single"] * 2 + ["morlhf"] * 2 + ["soup", "dpo", "published"]
    assert families == ["base", "simultaneous", "sequential", "decoding", "best_of_n", *trained]
    assert "Points in the palette's quadrant: base 0/1, simultaneous" in capfd.readouterr().out
    assert {path.name for path in points.parent.iterdir()} == {
        "points.json",
        "points.csv",
        "comparison.md",
        "comparison.html",
        *(f"{name}{kind}" for name in ("comparison", "gaps") for kind in (".svg", ".png", "-narrow.svg")),
    }
    adapters = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("adapter_model.safetensors")}
    assert main(arguments) == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("adapter_model.safetensors")} == adapters
