"""Every kind of score against numbers made by hand. Truth: arithmetic in the test, or the model called on one text."""

import asyncio

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from mapft.errors import UserError
from mapft.rewards import parse
from tests.rewards import tiny


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return tiny.presets(tmp_path_factory.mktemp("models"))


def score(prompt: str, response: str, **settings) -> float:
    return float(parse({"v": settings})["v"].load("v").score([prompt], [response])[0])


def words_of(path):
    return AutoTokenizer.from_pretrained(path)


@torch.no_grad()
def test_perplexity_is_the_mean_token_log_likelihood(models):
    path = models["perplexity"]
    ids = words_of(path)("Why is it quiet? I do not know.", return_tensors="pt")["input_ids"]
    log_p = AutoModelForCausalLM.from_pretrained(path)(ids).logits[0].double().log_softmax(-1)
    by_hand = np.mean([log_p[t, ids[0, t + 1]].item() for t in range(ids.shape[1] - 1)])
    assert score("Why is it quiet?", " I do not know.", kind="perplexity", path=path) == pytest.approx(
        by_hand, abs=1e-6
    )


def test_perplexity_of_nothing_is_a_blind_guess(models):
    vocabulary = len(words_of(models["perplexity"]))
    assert score("", "", kind="perplexity", path=models["perplexity"]) == pytest.approx(-np.log(vocabulary))


@torch.no_grad()
def test_coherence_is_the_cosine_of_the_pooled_outputs(models):
    path = models["coherence"]
    model, words = AutoModel.from_pretrained(path), words_of(path)
    x, y = (model(**words(text, return_tensors="pt")).pooler_output[0].double() for text in ("Ask me.", "No, thanks!"))
    by_hand = (x @ y / (x.norm() * y.norm())).item()
    assert score("Ask me.", "No, thanks!", kind="coherence", path=path) == pytest.approx(by_hand, abs=1e-6)
    assert score("Same.", "Same.", kind="coherence", path=path) == pytest.approx(1, abs=1e-9)


@torch.no_grad()
def test_a_pair_is_read_as_two_segments(models):
    path = models["helpful"]
    model, words = AutoModelForSequenceClassification.from_pretrained(path), words_of(path)
    pair = words("\n\nHuman: Ask? \n\nAssistant:", " Yes.", return_tensors="pt")
    by_hand = model(**pair).logits[0, 0].item()
    template = {"template": "\n\nHuman: {prompt} \n\nAssistant:", "second": "{response}"}
    assert score("Ask?", " Yes.", kind="classifier", path=path, **template) == pytest.approx(by_hand, abs=1e-6)


def test_a_long_pair_loses_its_first_segment_first(models):
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
def test_plain_scores(settings, response, expected):
    assert score("", response, **settings) == pytest.approx(expected, abs=1e-12)


def test_sentiment_is_vaders_compound():
    """The published example of the lexicon's authors."""
    assert score("", "VADER is smart, handsome, and funny.", kind="sentiment") == pytest.approx(0.8316, abs=1e-4)


async def slow_length(prompts, completions):
    await asyncio.sleep(0)
    return [float(len(text)) for text in completions]


def test_an_async_function_is_awaited():
    assert score("", "four", kind="function", target="tests.rewards.test_kinds:slow_length") == 4


@pytest.mark.parametrize(
    ("settings", "bounds"),
    [
        ({"kind": "classifier", "path": "x", "output": "probability"}, (0, 1)),
        ({"kind": "classifier", "path": "x", "output": "probability", "sign": -1}, (-1, 0)),
        ({"kind": "classifier", "path": "x", "output": "log_probability"}, (-np.inf, 0)),
        ({"kind": "classifier", "path": "x"}, (-np.inf, np.inf)),
        ({"kind": "perplexity", "path": "x", "sign": -1}, (0, np.inf)),
        ({"kind": "coherence", "path": "x"}, (-1, 1)),
        ({"kind": "diversity", "sign": -2}, (-2, 0)),
        ({"kind": "length", "best": 3}, (-np.inf, 0)),
        ({"kind": "length", "sign": -1}, (-np.inf, 0)),
        ({"kind": "function", "target": "a:b", "low": 0, "high": 5, "sign": -1}, (-5, 0)),
        ({"kind": "remote", "url": "http://x", "high": 1}, (-np.inf, 1)),
    ],
)
def test_bounds_hold_after_the_sign(settings, bounds):
    declared = parse({"v": settings})["v"]
    assert declared.bounds == bounds
    assert declared.unit


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"kind": "diversity", "measure": "product!"}, "measure=product! is unknown"),
        ({"kind": "diversity", "measure": "distinct"}, "distinct takes one n"),
        ({"kind": "length", "unit": "tokens"}, "unit=tokens is unknown"),
        ({"kind": "keywords", "pattern": "("}, "is no regular expression"),
        ({"kind": "keywords"}, "rewards.v.pattern is missing"),
        ({"kind": "format", "schema": {"type": "objekt"}}, "schema is no JSON schema"),
        ({"kind": "remote", "url": "localhost:1"}, "is no address"),
        ({"kind": "remote", "url": "http://x", "batch": 0}, "batch is at least 1"),
        ({"kind": "classifier", "path": "x", "second": "{answer}"}, "takes {prompt} and {response}"),
    ],
)
def test_wrong_settings_of_the_kinds(settings, words):
    with pytest.raises(UserError) as caught:
        parse({"v": settings})
    assert words in str(caught.value)


def test_weights_that_could_run_code_are_refused(models, tmp_path):
    """Only safetensors, unless the user says otherwise."""
    model = AutoModelForSequenceClassification.from_pretrained(models["humor"])
    model.config.save_pretrained(tmp_path)
    words_of(models["humor"]).save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    settings = {"kind": "classifier", "path": str(tmp_path)}
    with pytest.raises(UserError, match="safetensors"):
        score("a", "b", **settings)
    assert np.isfinite(score("a", "b", **settings, allow_pickle=True))


class Scaled:
    """Made with an argument, then called."""

    def __init__(self, factor):
        self.factor = factor

    def __call__(self, prompts, completions):
        return [self.factor * len(text) for text in completions]


def shifted(prompts, completions, by):
    return [len(text) + by for text in completions]


def nothing(prompts, completions):
    return None


def table(prompts, completions):
    return [[1.0, 2.0] for _ in completions]


def test_a_callable_may_be_named_as_hydra_does():
    here = "tests.rewards.test_kinds"
    assert score("", "four", **{"_target_": f"{here}.Scaled", "factor": 2.5}) == 10
    assert score("", "four", **{"_target_": f"{here}.shifted", "by": 1, "sign": -1}) == -5
    for name in ("nothing", "table"):
        with pytest.raises(UserError, match=f"{here}:{name}"):
            score("", "four", kind="function", target=f"{here}:{name}")


@torch.no_grad()
def test_a_pair_has_its_segments_marked(tmp_path):
    path = tiny.paired_bert(tmp_path)
    model, words = AutoModelForSequenceClassification.from_pretrained(path).eval(), words_of(path)
    pairs = [("why why", "yes"), ("why", "no no yes")]
    by_hand = [model(**words(x, y, return_tensors="pt")).logits[0, 0].item() for x, y in pairs]
    scorer = parse({"v": {"kind": "classifier", "path": path, "template": "{prompt}", "second": "{response}"}})[
        "v"
    ].load("v")
    np.testing.assert_allclose(scorer.score(*zip(*pairs, strict=True)), by_hand, atol=1e-6)
    unmarked = words(*pairs[0], return_tensors="pt")
    unmarked["token_type_ids"] = torch.zeros_like(unmarked["token_type_ids"])
    assert abs(model(**unmarked).logits[0, 0].item() - by_hand[0]) > 0.01


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@torch.no_grad()
def test_a_decoder_is_read_at_the_texts_own_last_token(tmp_path, name):
    """Even where that is EOS, and whatever shares its batch; by hand one text at a time, without padding."""
    path = tiny.causal_judge(tmp_path, name)
    model, words = AutoModelForSequenceClassification.from_pretrained(path).eval(), words_of(path)
    responses = ["Yes.", "No, and not at all, I fear.", "", "I see</s>"]
    texts = [f"Why?{response}</s>" for response in responses]
    by_hand = [model(**words(text, return_tensors="pt")).logits[0, 0].item() for text in texts]
    scorer = parse({"v": {"kind": "classifier", "path": path, "template": "{prompt}{response}</s>"}})["v"].load("v")
    np.testing.assert_allclose(scorer.score(["Why?"] * 4, responses), by_hand, atol=1e-5)
    empty = parse({"v": {"kind": "classifier", "path": path}})["v"].load("v")
    alone, beside = empty.score([""], [""])[0], empty.score(["", "Why?"], ["", "Yes."])[0]
    assert alone == pytest.approx(beside, abs=1e-5)


@pytest.mark.parametrize(("labels", "problem"), [(1, None), (3, "multi_label_classification")])
@torch.no_grad()
def test_classes_that_do_not_exclude_each_other_have_a_sigmoid_each(tmp_path, labels, problem):
    path = tiny.causal_judge(tmp_path, "gpt2", labels, problem_type=problem)
    model, words = AutoModelForSequenceClassification.from_pretrained(path).eval(), words_of(path)
    logit = model(**words("Why?Yes.", return_tensors="pt")).logits[0, labels - 1].double()
    for output, by_hand in (("probability", logit.sigmoid()), ("log_probability", logit.sigmoid().log())):
        given = score("Why?", "Yes.", kind="classifier", path=path, label=labels - 1, output=output)
        assert given == pytest.approx(by_hand.item(), abs=1e-6)


@pytest.mark.parametrize("kind", ["classifier", "perplexity", "coherence"])
def test_texts_longer_than_the_model_reads_are_cut(models, tmp_path, kind):
    """512 positions, max_tokens 4096: the last 512 tokens count."""
    path = {"classifier": models["helpful"], "perplexity": models["perplexity"], "coherence": models["coherence"]}[kind]
    long = [score("why " * 900 + "so?", "Yes " * more, kind=kind, path=path, max_tokens=4096) for more in (1, 700)]
    assert np.isfinite(long).all()


@pytest.mark.parametrize(
    ("settings", "response", "expected"),
    [
        ({}, "NaN", 0),
        ({}, "```JSON\n[1]\n```", 1),
        ({}, "[1]```", 0),
        ({"schema": {"type": "array", "items": {"$ref": "#"}}}, "[" * 300 + "]" * 300, 0.5),
    ],
)
def test_what_is_json(settings, response, expected):
    assert score("", response, kind="format", **settings) == expected


def test_a_reference_into_nowhere_is_named():
    with pytest.raises(UserError, match="refers to '/nope'"):
        score("", "[1]", kind="format", schema={"type": "array", "items": {"$ref": "#/nope"}})


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"kind": "length", "sign": 0}, "rewards.v.sign=0 is no direction"),
        ({"kind": "length", "sign": "minus"}, "rewards.v.sign='minus' does not fit; it must be float"),
        ({"kind": "classifier", "path": "x", "label": "one"}, "rewards.v.label='one'"),
        ({"kind": "classifier", "path": "x", "label": True}, "rewards.v.label=True"),
        ({"kind": "classifier", "path": "x", "max_tokens": 0}, "rewards.v.max_tokens=0 is out of range"),
        ({"kind": "diversity", "orders": 2}, "rewards.v.orders=2"),
        ({"kind": "diversity", "template": "{question}"}, "takes {prompt} and {response}"),
        ({"kind": "keywords", "pattern": None}, "rewards.v.pattern=None"),
        ({"kind": "remote", "url": "http://x:port/"}, "is no address"),
        ({"kind": "remote", "url": "http://x", "timeout": "60"}, "rewards.v.timeout='60'"),
        ({"factor": 2}, "or _target_: module.function"),
    ],
)
def test_settings_of_the_wrong_kind_are_one_sentence(settings, said):
    with pytest.raises(UserError) as caught:
        parse({"v": settings})
    assert said in str(caught.value)
