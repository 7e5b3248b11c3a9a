"""Reward models in memory. Truth: the number of live classifiers by gc, and bytes by hand."""

import gc

import pytest

from mapft.config import Residency
from mapft.rewards import loader, parse
from mapft.rewards.classifier import ClassifierScorer
from mapft.rewards.loader import RewardModels, residency_for
from tests import worlds
from tests.rewards.fixed import Fixed


@pytest.fixture(scope="module")
def judges(tmp_path_factory):
    """Three classifiers of one size."""
    folder = worlds.build(tmp_path_factory.mktemp("judges"))["judge"]
    return parse({name: {"kind": "classifier", "path": str(folder)} for name in "abc"})


def live_classifiers() -> int:
    gc.collect()
    return sum(type(item) is ClassifierScorer for item in gc.get_objects())


@pytest.mark.parametrize(
    ("residency", "count"), [(Residency.resident, 3), (Residency.offload, 3), (Residency.one_at_a_time, 1)]
)
def test_the_residency_bounds_the_number_of_models_in_memory(judges, residency, count):
    models = RewardModels(judges, residency)
    records = [(models.score(name, ["p"], ["x"]).tolist(), len(models), live_classifiers()) for name in "abcabc"]
    assert [n for _, n, _ in records[2:]] == [count] * 4
    assert [n for _, n, _ in records] == [n for _, _, n in records]
    assert len({tuple(scores) for scores, _, _ in records}) == 1
    models.release()
    assert live_classifiers() == 0


def test_more_models_than_max_loaded_are_rejected(judges):
    models = RewardModels(judges, Residency.resident, max_loaded=1)
    models.score("a", ["p"], ["x"])
    with pytest.raises(RuntimeError, match="b would be reward model 2 in memory, beside a; at most 1"):
        models.score("b", ["p"], ["x"])
    models.release()
    models.score("b", ["p"], ["x"])
    assert live_classifiers() == 1


def test_offloaded_models_are_on_the_device_only_to_score():
    score = Fixed(1.0)
    models = RewardModels({"a": score}, Residency.offload)
    models.load()
    assert score.location == "host"
    models.score("a", ["p"], ["x"])
    models.score("a", ["p"], ["x"])
    assert (score.location, score.moves) == ("host", 2)


def test_the_residency_is_chosen_at_the_first_score(judges, monkeypatch):
    monkeypatch.setattr(loader, "_free_memory", lambda: (1, None))
    models = RewardModels(judges)
    monkeypatch.setattr(loader, "_free_memory", lambda: (10**12, None))
    models.score("a", ["p"], ["x"])
    assert models.residency is Residency.resident


def test_bytes_of_half_precision_are_known_before_loading(tmp_path, judges):
    path = judges["a"].path
    half = parse({"v": {"kind": "classifier", "path": path, "dtype": "float16"}})["v"]
    assert half.estimated_nbytes() == half.load("v").nbytes == judges["a"].estimated_nbytes() // 2


def test_bytes_are_known_before_loading(judges):
    scorer = judges["a"].load("a")
    assert scorer.nbytes == 4 * sum(p.numel() for p in scorer.model.parameters())
    assert judges["a"].estimated_nbytes() == scorer.nbytes


@pytest.mark.parametrize(
    ("needed", "device", "host", "expected"),
    [
        (25, 100, None, Residency.resident),
        (26, 100, None, Residency.one_at_a_time),
        (25, 100, 10, Residency.resident),
        (26, 100, 104, Residency.offload),
        (27, 100, 104, Residency.one_at_a_time),
    ],
)
def test_the_residency_follows_from_the_free_memory(needed, device, host, expected):
    assert residency_for(needed, device, host) is expected
