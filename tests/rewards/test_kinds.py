"""Every kind of score. Truth: arithmetic in the test, or the model called by hand on one text."""

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from mapft.rewards import parse
from mapft.utils.errors import UserError
from tests.rewards import tiny


def score(prompt: str, response: str, **settings) -> float:
    return float(parse({"v": settings})["v"].load("v").score([prompt], [response])[0])


def tokenizer_of(path):
    return AutoTokenizer.from_pretrained(path)


@pytest.mark.parametrize("output", ["logit", "log_probability", "probability"])
@torch.no_grad()
def test_classifier_equals_the_model_called_by_hand(models, output):
    path = models["judge"]
    model = AutoModelForSequenceClassification.from_pretrained(path).eval()
    logits = model(**tokenizer_of(path)("Ask me.Yes.", return_tensors="pt")).logits[0].double()
    by_hand = {"logit": logits, "log_probability": logits.log_softmax(0), "probability": logits.softmax(0)}[output][1]
    settings = {"kind": "classifier", "path": path, "label": 1, "output": output, "sign": -1.0}
    assert score("Ask me.", "Yes.", **settings) == pytest.approx(-by_hand.item(), abs=1e-6)


@torch.no_grad()
def test_perplexity_is_the_mean_token_log_likelihood(models):
    path = models["perplexity"]
    ids = tokenizer_of(path)("Why is it quiet? I do not know.", return_tensors="pt")["input_ids"]
    log_p = AutoModelForCausalLM.from_pretrained(path)(ids).logits[0].double().log_softmax(-1)
    by_hand = np.mean([log_p[t, ids[0, t + 1]].item() for t in range(ids.shape[1] - 1)])
    assert score("Why is it quiet?", " I do not know.", kind="perplexity", path=path) == pytest.approx(
        by_hand, abs=1e-6
    )


def test_perplexity_of_an_empty_text_is_a_uniform_guess(models):
    vocabulary = len(tokenizer_of(models["perplexity"]))
    assert score("", "", kind="perplexity", path=models["perplexity"]) == pytest.approx(-np.log(vocabulary))


@torch.no_grad()
def test_coherence_is_the_cosine_of_the_pooled_outputs(models):
    path = models["coherence"]
    model, tokenizer = AutoModel.from_pretrained(path), tokenizer_of(path)
    encoded = [tokenizer(text, return_tensors="pt") for text in ("Ask me.", "No, thanks!")]
    x, y = (model(**inputs).pooler_output[0].double() for inputs in encoded)
    by_hand = (x @ y / (x.norm() * y.norm())).item()
    assert score("Ask me.", "No, thanks!", kind="coherence", path=path) == pytest.approx(by_hand, abs=1e-6)
    assert score("Same.", "Same.", kind="coherence", path=path) == pytest.approx(1, abs=1e-9)


@torch.no_grad()
def test_a_pair_is_encoded_as_two_segments(models):
    path = models["helpful"]
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(path), tokenizer_of(path)
    pair = tokenizer("\n\nHuman: Ask? \n\nAssistant:", " Yes.", return_tensors="pt")
    by_hand = model(**pair).logits[0, 0].item()
    template = {"template": "\n\nHuman: {prompt} \n\nAssistant:", "second": "{response}"}
    assert score("Ask?", " Yes.", kind="classifier", path=path, **template) == pytest.approx(by_hand, abs=1e-6)


def test_of_a_long_pair_the_first_segment_is_cut(models):
    pair = {
        "kind": "classifier",
        "path": models["helpful"],
        "template": "{prompt}",
        "second": "{response}",
        "max_tokens": 12,
    }
    long = score("why " * 40 + "so quiet", "Yes.", **pair)
    assert long == pytest.approx(score("how " * 40 + "why " * 20 + "so quiet", "Yes.", **pair), abs=1e-6)
    assert abs(long - score("why " * 40 + "so quiet", "No!!", **pair)) > 1e-4
    assert np.isfinite(score("why", "very long " * 40, **pair))


@pytest.mark.parametrize(
    ("settings", "text", "expected"),
    [
        ({}, "a b c a b", (3 / 5) * (3 / 4) * (2 / 3)),  # bigrams ab bc ca ab; trigrams 3; 4-grams 2
        ({}, "one", 0.0),
        ({"measure": "distinct", "orders": [2]}, "a b c a b", 3 / 4),
        ({"measure": "distinct", "orders": [1]}, "a a a b", 2 / 4),
        ({"measure": "distinct", "orders": [2]}, "", 0.0),
        ({"sign": -2.0, "measure": "distinct", "orders": [1]}, "a a", -1.0),
    ],
)
def test_diversity_counts_n_grams(settings, text, expected):
    assert score("", text, kind="diversity", **settings) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("settings", "response", "expected"),
    [
        ({"kind": "length"}, "three short words", 3),
        ({"kind": "length", "unit": "characters", "sign": -1}, "four", -4),
        ({"kind": "length", "best": 5}, "three short words", -2),
        ({"kind": "keywords", "pattern": r"sorry|apolog"}, "I APOLOGISE", 1),
        ({"kind": "keywords", "pattern": r"\bno\b", "measure": "share"}, "no no yes", 2 / 3),
        ({"kind": "keywords", "pattern": "x", "ignore_case": False, "sign": -1}, "X", 0),
        ({"kind": "format"}, '{"a": 1}', 1),
        ({"kind": "format"}, "```json\n[1]\n```", 1),
        ({"kind": "format"}, "{a: 1}", 0),
        ({"kind": "format", "schema": {"type": "object", "required": ["a"]}}, '{"b": 1}', 0.5),
        ({"kind": "format", "schema": {"type": "object", "required": ["a"]}}, '{"a": 1}', 1),
        ({"kind": "sentiment"}, "", 0),
    ],
)
def test_text_scores(settings, response, expected):
    assert score("", response, **settings) == pytest.approx(expected, abs=1e-12)


def test_sentiment_is_vaders_compound():
    """An example published by the authors of the lexicon."""
    assert score("", "VADER is smart, handsome, and funny.", kind="sentiment") == pytest.approx(0.8316, abs=1e-4)


@torch.no_grad()
def test_the_segments_of_a_pair_have_token_types(tmp_path):
    path = tiny.paired_bert(tmp_path)
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(path).eval(), tokenizer_of(path)
    pairs = [("why why", "yes"), ("why", "no no yes")]
    by_hand = [model(**tokenizer(x, y, return_tensors="pt")).logits[0, 0].item() for x, y in pairs]
    settings = {"kind": "classifier", "path": path, "template": "{prompt}", "second": "{response}"}
    scorer = parse({"v": settings})["v"].load("v")
    np.testing.assert_allclose(scorer.score(*zip(*pairs, strict=True)), by_hand, atol=1e-6)
    unmarked = tokenizer(*pairs[0], return_tensors="pt")
    unmarked["token_type_ids"] = torch.zeros_like(unmarked["token_type_ids"])
    assert abs(model(**unmarked).logits[0, 0].item() - by_hand[0]) > 0.01


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@torch.no_grad()
def test_a_decoder_scores_the_last_token_of_the_text(tmp_path, name):
    """Also if that token is EOS, and for every batch; by hand, one text at a time without padding."""
    path = tiny.causal_judge(tmp_path, name)
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(path).eval(), tokenizer_of(path)
    responses = ["Yes.", "No, and not at all, I fear.", "", "I see</s>"]
    texts = [f"Why?{response}</s>" for response in responses]
    by_hand = [model(**tokenizer(text, return_tensors="pt")).logits[0, 0].item() for text in texts]
    scorer = parse({"v": {"kind": "classifier", "path": path, "template": "{prompt}{response}</s>"}})["v"].load("v")
    np.testing.assert_allclose(scorer.score(["Why?"] * 4, responses), by_hand, atol=1e-5)
    empty = parse({"v": {"kind": "classifier", "path": path}})["v"].load("v")
    alone, beside = empty.score([""], [""])[0], empty.score(["", "Why?"], ["", "Yes."])[0]
    assert alone == pytest.approx(beside, abs=1e-5)


@pytest.mark.parametrize(("labels", "problem"), [(1, None), (3, "multi_label_classification")])
@torch.no_grad()
def test_classes_that_do_not_exclude_each_other_have_one_sigmoid_each(tmp_path, labels, problem):
    path = tiny.causal_judge(tmp_path, "gpt2", labels, problem_type=problem)
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(path).eval(), tokenizer_of(path)
    logit = model(**tokenizer("Why?Yes.", return_tensors="pt")).logits[0, labels - 1].double()
    for output, by_hand in (("probability", logit.sigmoid()), ("log_probability", logit.sigmoid().log())):
        actual = score("Why?", "Yes.", kind="classifier", path=path, label=labels - 1, output=output)
        assert actual == pytest.approx(by_hand.item(), abs=1e-6)


@pytest.mark.parametrize(
    ("settings", "response", "expected"),
    [
        ({}, "NaN", 0),
        ({}, "```JSON\n[1]\n```", 1),
        ({}, "[1]```", 0),
        ({"schema": {"type": "array", "items": {"$ref": "#"}}}, "[" * 300 + "]" * 300, 0.5),
    ],
)
def test_format_of_unusual_json(settings, response, expected):
    assert score("", response, kind="format", **settings) == expected


def test_an_undefined_reference_in_a_schema_is_rejected():
    with pytest.raises(UserError, match="refers to '/nope'"):
        score("", "[1]", kind="format", schema={"type": "array", "items": {"$ref": "#/nope"}})
