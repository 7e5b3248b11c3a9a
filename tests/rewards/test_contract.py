"""One row per kind of score: order and batches never change a score, hostile texts get finite scores within the bounds.

Truth: the same scorer on one text at a time; the bounds that the kind declares; and a kind that a test adds.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np
import pytest

from mapft.config.fields import setting
from mapft.rewards import KINDS, parse, score_identity
from mapft.rewards.text_score import TextScore
from mapft.utils.errors import UserError
from tests.rewards.requests import VOWELS

TEXTS = ["", "a", "Why is the garden so quiet?", "emoji 😀 and שלום", "x\x00y\t\n", "long " * 400]
PIECES = [
    "",
    " ",
    "\n\t\x00\x1b[31m",
    "😀🏳️‍🌈",
    "שלום עולם",
    "\u202eevil\u202c",
    "\ud800",
    "\udfff!",
    "é" * 3,
    "<|end|>",
    "{}",
    "%s{0}",
    "[bold]",
]


@pytest.fixture
def settings(models, serve, chat):
    """settings(kind) -> a reward of that kind."""
    rows = {
        "classifier": lambda: {"path": models["judge"], "label": 1, "batch_tokens": 600},
        "coherence": lambda: {"path": models["coherence"], "batch_tokens": 600},
        "diversity": dict,
        "format": lambda: {"schema": {"type": "array"}},
        "function": lambda: {"target": "tests.worlds:vowels"},
        "judge": lambda: {
            "path": models["reader"],
            "question": "Is {answer} kind?",
            "batch_tokens": 600,
            "max_tokens": 900,
        },
        "keywords": lambda: {"pattern": "quiet"},
        "length": dict,
        "match": lambda: {"column": "answer"},
        "perplexity": lambda: {"path": models["perplexity"], "batch_tokens": 600},
        "remote": lambda: {"url": serve({"vowels": VOWELS}) + "/score/vowels", "batch": 4},
        "remote_judge": lambda: {"url": chat(models["words"]).url, "model": "words", "question": "Is {answer} kind?"},
        "sentiment": dict,
    }
    return lambda kind: {"kind": kind} | rows[kind]()


def columns_of(score, texts):
    """Every column that the score reads, with short texts that differ between rows."""
    return {name: [text[:30] for text in texts] for name in score.reads([])}


@pytest.mark.parametrize("kind", KINDS)
def test_order_and_batches_never_change_a_score(kind, settings):
    score = parse({"v": settings(kind)})["v"]
    scorer = score.load("v")
    prompts = [f"Prompt {i}: " for i in range(len(TEXTS))]
    together = scorer.score(prompts, TEXTS, columns_of(score, TEXTS))
    assert together.dtype == np.float64
    assert np.isfinite(together).all()
    for order in ([5, 3, 1, 0, 2, 4], [0], [5]):
        some = [TEXTS[i] for i in order]
        separately = scorer.score([prompts[i] for i in order], some, columns_of(score, some))
        np.testing.assert_allclose(separately, together[order], atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_500_hostile_texts_get_finite_scores_within_the_bounds(kind, settings):
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(PIECES, size=rng.integers(0, 6))) for _ in range(498)]
    texts += ["x" * 100_000, "y z " * 25_000]
    score = parse({"v": settings(kind)})["v"]
    scores = score.load("v").score(texts[::-1], texts, columns_of(score, texts))
    low, high = score.bounds
    assert np.isfinite(scores).all()
    assert low - 1e-9 <= scores.min() <= scores.max() <= high + 1e-9


@pytest.mark.parametrize("kind", KINDS)
def test_every_setting_has_a_meaning(kind):
    for field in dataclasses.fields(KINDS[kind]):
        assert field.metadata.get("help"), field.name


@dataclass(frozen=True, kw_only=True)
class Exclamations(TextScore):
    """r(x, y) = sign * min(exclamation marks, most)."""

    most: int = setting(help="Largest count.", at_least=1)
    speed: str = setting("slow", "A setting that changes no score.", identity=False)
    unit = "marks"

    @property
    def raw_bounds(self):
        return 0.0, float(self.most)

    def score_one(self, prompt, response):
        return float(min(response.count("!"), self.most))


def test_a_new_kind_needs_one_class_and_one_line_in_kinds(monkeypatch):
    monkeypatch.setitem(KINDS, "exclamations", Exclamations)
    score = parse({"loud": {"kind": "exclamations", "most": 2, "sign": -1, "speed": "fast"}})["loud"]
    assert score.load("loud").score(["p"] * 3, ["", "a!", "a!!!"]).tolist() == [0, -1, -2]
    assert score.bounds == (-2, 0)
    assert score_identity(score) == {"kind": "exclamations", "sign": -1, "most": 2}
    assert (score.files(), score.estimated_nbytes()) == ([], 0)
    for settings, message in [
        ({"most": 0}, "rewards.loud.most=0 is invalid; it must be at least 1"),
        ({"most": "2"}, "rewards.loud.most='2' is invalid; it must be a whole number"),
        ({}, "rewards.loud.most is missing; kind exclamations requires it"),
        ({"most": 1, "mots": 2}, "rewards.loud.mots is unknown; the settings of kind exclamations are sign, most, sp"),
    ]:
        with pytest.raises(UserError) as caught:
            parse({"loud": {"kind": "exclamations"} | settings})
        assert message in str(caught.value)
