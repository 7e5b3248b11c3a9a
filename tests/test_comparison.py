"""Truth: hand arithmetic on runs that hold only what is asked of them."""

from types import SimpleNamespace

import pytest

from mapft import comparison
from mapft.config import (
    Choose,
    ComparisonConfig,
    DPOMode,
    EvaluationConfig,
    Method,
    PolicyConfig,
    PublishedMode,
    ScalarizedMode,
    SequentialMode,
    SimultaneousMode,
    SoupMode,
)


def run(mode=None, targets=None, sd=None, stages=(), **more):
    targets = targets or {"a": 1.0, "b": 2.0}
    sd = sd or dict.fromkeys(targets, 1.0)
    config = SimpleNamespace(
        mode=mode or SimultaneousMode(name="simultaneous"),
        comparison=ComparisonConfig(**more),
        evaluation=EvaluationConfig(tolerance_sd=0.1),
        trainer=SimpleNamespace(total_episodes=500),
        seed=0,
    )
    matrix = type("Matrix", (), {"sd": sd, "__len__": lambda self: 40})()
    return SimpleNamespace(
        config=config, solve=lambda: SimpleNamespace(targets=targets), score=lambda: matrix, folder="here"
    )


def level(**means):
    return {"levels": {name: {"mean": mean} for name, mean in means.items()}}


def test_the_quadrant_allows_a_tenth_of_a_sd_and_leaves_constants_out():
    here = run(targets={"a": 1.0, "b": 2.0, "flat": 0.1}, sd={"a": 2.0, "b": 0.5, "flat": 0.0})
    assert comparison.met(here, level(a=0.81, b=1.96, flat=0.0999))
    assert not comparison.met(here, level(a=0.79, b=1.96, flat=0.1))
    assert not comparison.met(here, level(a=0.81, b=1.94, flat=0.1))


def test_what_every_policy_took_is_counted(monkeypatch):
    stages = [SimpleNamespace(skipped=skipped) for skipped in (False, True, False)]
    monkeypatch.setattr(comparison, "read_stages", lambda folder: stages)
    own = SequentialMode(name="sequential", stage_episodes=100)
    assert comparison.scored(run(mode=own), own) == 3 * 40 + 2 * 100
    for way, count in (
        (None, 0),
        (SimultaneousMode(name="simultaneous"), 500),
        (ScalarizedMode(name="scalarized", weights={"a": 1.0}), 500),
        (SoupMode(name="soup", weights={"a": 0.5, "b": 0.5}), 1000),
        (PublishedMode(name="published"), 500),
        (DPOMode(name="dpo"), 0),
        (PolicyConfig(candidates=16), 16),
    ):
        assert comparison.scored(run(), way) == count


def test_every_contender_has_a_name_and_a_way_of_its_own():
    here = run(random_weights=4, soup_steps=3, candidates=8, mode=DPOMode(name="dpo", beta=0.5))
    found = list(comparison.contenders(here))
    names = [name for name, _, _ in found]
    assert len(set(names)) == len(names)
    ways = {name: way for name, _, way in found}
    assert ways["single a"].weights == {"a": 1.0}
    assert ways["dpo"].beta == 0.5
    assert ways["best_of_n n=8"].choose is Choose.best
    assert [way.weights for name, family, way in found if family == "soup"] == [
        {"a": pytest.approx(1 / 3), "b": pytest.approx(2 / 3)},
        {"a": pytest.approx(2 / 3), "b": pytest.approx(1 / 3)},
    ]
    mixtures = [way.weights for _, family, way in found if family == "morlhf"]
    assert len(mixtures) == 4
    assert all(sum(weights.values()) == pytest.approx(1, abs=2e-3) for weights in mixtures)
    assert comparison.random_weights(["a", "b"], 50, 0) == comparison.random_weights(["a", "b"], 50, 0)


def test_one_value_has_no_mixtures_and_constant_values_no_baseline():
    found = list(comparison.contenders(run(targets={"a": 1.0, "flat": 0.1}, sd={"a": 1.0, "flat": 0.0})))
    assert {family for _, family, _ in found} == {"base", *(m.value for m in Method)} - {"morlhf", "soup"}
    assert [name for name, family, _ in found if family == "single"] == ["single a"]


def test_the_table_names_every_family_and_what_was_not_made():
    points = {
        "base": level(a=0.0, b=0.0) | {"family": "base", "met": False, "kl": {"mean": 0.0}, "scored": 0},
        "decoding": level(a=1.5, b=2.5) | {"family": "decoding", "met": True, "kl": {"mean": 0.5}, "scored": 8},
        "single a": level(a=1.5, b=1.0) | {"family": "single", "met": False, "kl": {"mean": 0.7}, "scored": 500},
        "single b": level(a=1.5, b=2.0) | {"family": "single", "met": True, "kl": {"mean": 0.7}, "scored": 500},
    }
    text = comparison.markdown(run(), points, {"dpo": "Nothing can be preferred."})
    assert "| decoding | 1.500 (+0.50) | 2.500 (+0.50) | ≤ 0.50 | 8 | yes |" in text
    assert "Points in the palette's quadrant: base 0/1, decoding 1/1, single 1/2." in text
    assert "Not made: dpo. Nothing can be preferred." in text
