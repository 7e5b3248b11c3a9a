"""One row per kind of score: batch order and composition never matter, hostile texts get finite numbers.

Truth: the same model called by hand on one unpadded text.
"""

import threading

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from mapft.errors import UserError
from mapft.rewards import KINDS, parse
from mapft.rewards.held import by_length
from mapft.rewards.scoring import score_texts
from mapft.rewards.server import RewardServer
from tests import worlds
from tests.rewards import tiny

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
]


@pytest.fixture(scope="module")
def judge(models):
    return models["judge"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return tiny.presets(folder) | {"judge": worlds.build(folder)["judge"]}


@pytest.fixture(scope="module")
def server(models):
    with RewardServer(parse({"vowels": {"kind": "function", "target": "tests.worlds:vowels"}})) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/score/vowels"
        server.shutdown()


def settings(kind: str, models, server: str = "http://127.0.0.1:1") -> dict:
    return {"kind": kind} | {
        "classifier": {"path": str(models["judge"]), "label": 1, "batch_tokens": 600},
        "coherence": {"path": models["coherence"], "batch_tokens": 600},
        "diversity": {},
        "format": {"schema": {"type": "array"}},
        "function": {"target": "tests.worlds:vowels"},
        "keywords": {"pattern": "quiet"},
        "length": {},
        "perplexity": {"path": models["perplexity"], "batch_tokens": 600},
        "remote": {"url": server, "batch": 4},
        "sentiment": {},
    }[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_order_and_batches_never_change_a_score(kind, models, server):
    scorer = parse({"v": settings(kind, models, server)})["v"].load("v")
    prompts = [f"Prompt {i}: " for i in range(len(TEXTS))]
    together = scorer.score(prompts, TEXTS)
    assert together.dtype == np.float64
    assert np.isfinite(together).all()
    for order in ([5, 3, 1, 0, 2, 4], [0], [5]):
        alone = scorer.score([prompts[i] for i in order], [TEXTS[i] for i in order])
        np.testing.assert_allclose(alone, together[order], atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_500_hostile_texts_get_finite_scores_within_the_bounds(kind, models, server):
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(PIECES, size=rng.integers(0, 6))) for _ in range(498)] + [
        "x" * 100_000,
        "y z " * 25_000,
    ]
    declared = parse({"v": settings(kind, models, server)})["v"]
    scores = declared.load("v").score(texts[::-1], texts)
    low, high = declared.bounds
    assert np.isfinite(scores).all()
    assert low - 1e-9 <= scores.min() <= scores.max() <= high + 1e-9


@pytest.mark.parametrize("output", ["logit", "log_probability", "probability"])
def test_classifier_equals_the_model_called_by_hand(judge, output):
    score = parse({"v": {"kind": "classifier", "path": str(judge), "label": 1, "output": output, "sign": -1.0}})["v"]
    model = AutoModelForSequenceClassification.from_pretrained(judge).eval()
    words = AutoTokenizer.from_pretrained(judge)
    with torch.no_grad():
        logits = model(**words("Ask me.Yes.", return_tensors="pt")).logits[0].double()
    by_hand = {"logit": logits, "log_probability": logits.log_softmax(0), "probability": logits.softmax(0)}[output][1]
    assert score.load("v").score(["Ask me."], ["Yes."])[0] == pytest.approx(-by_hand.item(), abs=1e-6)


def test_a_long_prompt_is_cut_and_the_response_stays(judge):
    """The last 16 tokens decide: prompts that differ only before them score alike, responses never do."""
    scorer = parse(
        {"v": settings("classifier", {"judge": judge, "coherence": "", "perplexity": ""}) | {"max_tokens": 16}}
    )["v"].load("v")
    first, other, answered = scorer.score(["why " * 50, "how " * 9 + "why " * 50, "why " * 50], ["Yes.", "Yes.", "No!"])
    assert first == pytest.approx(other, abs=1e-6)
    assert abs(first - answered) > 1e-4


def test_batches_cover_every_row_once_within_the_budget():
    lengths = [3, 100, 1, 50, 50, 7]
    batches = by_length(lengths, 120)
    assert sorted(row for batch in batches for row in batch) == list(range(6))
    assert all(len(batch) * max(lengths[i] for i in batch) <= 120 for batch in batches)


def test_matrix_keeps_rows_and_names(judge):
    matrix = score_texts(
        parse(
            {
                "vowels": settings("function", {"judge": judge, "coherence": "", "perplexity": ""}),
                "judge": settings("classifier", {"judge": judge, "coherence": "", "perplexity": ""}),
            }
        ),
        ["p"] * 3,
        ["aaa", "bbb", "ab"],
        [7, 7, 9],
    )
    assert matrix.values == ("vowels", "judge")
    np.testing.assert_allclose(matrix.scores[:, 0], [3 / 4, 0, 1 / 3])
    assert matrix.prompt_ids.tolist() == [7, 7, 9]


@pytest.mark.parametrize(
    ("reward", "words"),
    [
        ({"kind": "clasifier"}, "kind=clasifier is unknown; use one of classifier, coherence, diversity"),
        ({}, "kind=None is unknown"),
        ({"kind": "classifier"}, "rewards.v.path is missing"),
        ({"kind": "classifier", "path": "x", "lable": 1}, "no setting lable"),
        ({"kind": "classifier", "path": "x", "output": "logits"}, "output=logits is unknown"),
        ({"kind": "classifier", "path": "x", "template": "{question}"}, "takes {prompt} and {response}"),
    ],
)
def test_wrong_settings_are_one_sentence(reward, words):
    with pytest.raises(UserError) as caught:
        parse({"v": reward})
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("reward", "words"),
    [
        ({"kind": "classifier", "path": "/no/such/folder"}, "rewards.v.path=/no/such/folder does not exist"),
        ({"kind": "function", "target": "tests.worlds:nothing"}, "cannot be imported"),
        ({"kind": "function", "target": "nowhere"}, "cannot be imported"),
    ],
)
def test_scores_that_do_not_load_are_one_sentence(reward, words):
    with pytest.raises(UserError, match=words):
        parse({"v": reward})["v"].load("v")


def test_label_out_of_range_names_the_number_of_classes(judge):
    with pytest.raises(UserError, match="has 2 classes"):
        parse({"v": {"kind": "classifier", "path": str(judge), "label": 2}})["v"].load("v")


def test_nan_names_value_and_row():
    with pytest.raises(UserError, match="'bad' is nan for response 2"):
        score_texts(
            parse({"bad": {"kind": "function", "target": "tests.worlds:broken"}}), ["p"] * 4, ["r"] * 4, [0] * 4
        )
