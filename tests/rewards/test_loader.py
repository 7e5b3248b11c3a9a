"""Truth: a count of the classifiers that are alive, and bytes counted by hand."""

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


def alive() -> int:
    gc.collect()
    return sum(type(each) is ClassifierScorer for each in gc.get_objects())


@pytest.mark.parametrize(
    ("residency", "count"), [(Residency.resident, 3), (Residency.offload, 3), (Residency.one_at_a_time, 1)]
)
def test_as_many_models_live_as_the_policy_allows(judges, residency, count):
    models = RewardModels(judges, residency)
    seen = [(models.score(name, ["p"], ["x"]).tolist(), len(models), alive()) for name in "abcabc"]
    assert [n for _, n, _ in seen[2:]] == [count] * 4
    assert [n for _, n, _ in seen] == [n for _, _, n in seen]
    assert len({tuple(scores) for scores, _, _ in seen}) == 1
    models.release()
    assert alive() == 0


def test_one_more_than_allowed_is_refused(judges):
    models = RewardModels(judges, Residency.resident, most=1)
    models.score("a", ["p"], ["x"])
    with pytest.raises(RuntimeError, match="b would be reward model 2 in memory beside a"):
        models.score("b", ["p"], ["x"])
    models.release()
    models.score("b", ["p"], ["x"])
    assert alive() == 1


def test_offloaded_models_are_on_the_device_only_to_score():
    score = Fixed(1.0)
    models = RewardModels({"a": score}, Residency.offload)
    models.score("a", ["p"], ["x"])
    models.score("a", ["p"], ["x"])
    assert (score.where, score.moves) == ("host", 2)


def test_the_choice_is_made_when_the_policy_is_there(judges, monkeypatch):
    monkeypatch.setattr(loader, "_free", lambda: (1, None))
    models = RewardModels(judges)
    monkeypatch.setattr(loader, "_free", lambda: (10**12, None))
    models.score("a", ["p"], ["x"])
    assert models.residency is Residency.resident


def test_bytes_of_a_narrower_type_are_known(tmp_path, judges):
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
def test_the_policy_follows_from_free_memory(needed, device, host, expected):
    assert residency_for(needed, device, host) is expected
