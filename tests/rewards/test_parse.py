"""Settings of rewards. Truth: every invalid setting is one sentence that names it; bounds and identities by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mapft.rewards import parse, score_identity
from mapft.utils.errors import UserError
from tests.strategies import ANYTHING, EXAMPLES, TEXT


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "clasifier"}, "rewards.v.kind=clasifier is unknown; use one of classifier, coherence, diversity"),
        ({}, "rewards.v.kind=None is unknown"),
        ({"factor": 2}, "or _target_: module.function"),
        ({"kind": "classifier"}, "rewards.v.path is missing; kind classifier requires it"),
        ({"kind": "keywords"}, "rewards.v.pattern is missing"),
        ({"kind": "classifier", "path": "x", "lable": 1}, "rewards.v.lable is unknown; the settings of kind classifie"),
        ({"kind": "classifier", "path": "x", "output": "logits"}, "rewards.v.output=logits is unknown; use one of log"),
        ({"kind": "classifier", "path": "x", "output": None}, "rewards.v.output=None is unknown"),
        ({"kind": "classifier", "path": "x", "dtype": ["a"]}, "rewards.v.dtype=['a'] is unknown; use one of auto, flo"),
        ({"kind": "classifier", "path": "x", "template": "{question}"}, "its fields are {prompt} and {response}"),
        ({"kind": "classifier", "path": "x", "second": "{answer}"}, "rewards.v.second='{answer}' is not a valid templ"),
        ({"kind": "perplexity", "path": "x", "template": "{prompt.x}"}, "rewards.v.template='{prompt.x}' is not a va"),
        ({"kind": "diversity", "template": "{prompt[x]}"}, "rewards.v.template='{prompt[x]}' is not a valid template"),
        ({"kind": "classifier", "path": "x", "label": "one"}, "rewards.v.label='one' is invalid; it must be a whole n"),
        ({"kind": "classifier", "path": "x", "label": True}, "rewards.v.label=True is invalid"),
        ({"kind": "classifier", "path": "x", "label": 1.5}, "rewards.v.label=1.5 is invalid"),
        ({"kind": "classifier", "path": "x", "label": -1}, "rewards.v.label=-1 is invalid; it must be at least 0"),
        ({"kind": "classifier", "path": "x", "max_tokens": 0}, "rewards.v.max_tokens=0 is invalid; it must be at"),
        ({"kind": "classifier", "path": "x", "revision": 5}, "rewards.v.revision=5 is invalid; it must be a text"),
        ({"kind": "classifier", "path": "x", "allow_pickle": 1}, "rewards.v.allow_pickle=1 is invalid; it must be tru"),
        ({"kind": "diversity", "measure": "product!"}, "rewards.v.measure=product! is unknown; use one of product, d"),
        (
            {"kind": "diversity", "measure": "distinct"},
            "rewards.v.orders=[2, 3, 4] is invalid; it must be a sing",
        ),
        ({"kind": "diversity", "orders": []}, "rewards.v.orders=[] is invalid; it must be one or more numbers"),
        ({"kind": "diversity", "orders": [0]}, "rewards.v.orders=[0] is invalid"),
        ({"kind": "diversity", "orders": 2}, "rewards.v.orders=2 is invalid; it must be a list"),
        ({"kind": "diversity", "orders": ""}, "rewards.v.orders='' is invalid; it must be a list"),
        ({"kind": "length", "sign": 0}, "rewards.v.sign=0 is invalid; it must be a factor other than 0"),
        ({"kind": "length", "sign": np.inf}, "rewards.v.sign=inf is invalid; it must be a finite number"),
        ({"kind": "length", "sign": "minus"}, "rewards.v.sign='minus' is invalid; it must be a number"),
        ({"kind": "length", "unit": "tokens"}, "rewards.v.unit=tokens is unknown; use one of characters, words"),
        ({"kind": "keywords", "pattern": "("}, "rewards.v.pattern='(' is invalid; it must be a regular expression"),
        ({"kind": "keywords", "pattern": None}, "rewards.v.pattern=None is invalid; it must be a text"),
        ({"kind": "format", "schema": {"type": "objekt"}}, "rewards.v.schema is not a valid JSON schema"),
        ({"kind": "format", "schema": "x"}, "rewards.v.schema='x' is invalid; it must be a mapping"),
        ({"kind": "remote", "url": "localhost:1"}, "rewards.v.url=localhost:1 is not valid"),
        ({"kind": "remote", "url": "http://x:port/"}, "rewards.v.url=http://x:port/ is not valid"),
        ({"kind": "remote", "url": "http://x", "batch": 0}, "rewards.v.batch=0 is invalid; it must be at least 1"),
        ({"kind": "remote", "url": "http://x", "retries": -1}, "rewards.v.retries=-1 is invalid"),
        (
            {"kind": "remote", "url": "http://x", "timeout": 0},
            "rewards.v.timeout=0 is invalid; it must be above",
        ),
        ({"kind": "remote", "url": "http://x", "timeout": "60"}, "rewards.v.timeout='60' is invalid; it must be a num"),
    ],
)
def test_an_invalid_setting_is_one_sentence_that_names_it(settings, message):
    with pytest.raises(UserError) as caught:
        parse({"v": settings})
    assert message in str(caught.value)


def test_a_reward_without_settings_shows_how_to_write_them():
    with pytest.raises(UserError, match=r"rewards.v=foo is invalid; write its settings, for example rewards.v={kind"):
        parse({"v": "foo"})


@EXAMPLES
@given(st.dictionaries(TEXT, ANYTHING, max_size=4))
def test_any_settings_are_parsed_or_rejected(settings):
    try:
        scores = parse({"v": {"kind": "keywords", "pattern": "a"} | settings})
    except UserError:
        return
    assert np.isfinite(scores["v"].load("v").score(["p"], ["a"])).all()


@pytest.mark.parametrize(
    ("settings", "bounds"),
    [
        ({"kind": "classifier", "path": "x", "output": "probability"}, (0, 1)),
        ({"kind": "classifier", "path": "x", "output": "probability", "sign": -1}, (-1, 0)),
        ({"kind": "classifier", "path": "x", "output": "log_probability"}, (-np.inf, 0)),
        ({"kind": "classifier", "path": "x"}, (-np.inf, np.inf)),
        ({"kind": "perplexity", "path": "x", "sign": -1}, (0, np.inf)),
        ({"kind": "coherence", "path": "x"}, (-1, 1)),
        ({"kind": "coherence", "path": "x", "sign": -2}, (-2, 2)),
        ({"kind": "sentiment", "sign": 0.5}, (-0.5, 0.5)),
        ({"kind": "diversity", "sign": -2}, (-2, 0)),
        ({"kind": "length", "best": 3}, (-np.inf, 0)),
        ({"kind": "length", "sign": -1}, (-np.inf, 0)),
        ({"kind": "function", "target": "a:b", "low": 0, "high": 5, "sign": -1}, (-5, 0)),
        ({"kind": "remote", "url": "http://x", "high": 1}, (-np.inf, 1)),
    ],
)
def test_bounds_include_the_sign(settings, bounds):
    score = parse({"v": settings})["v"]
    assert score.bounds == bounds
    assert score.unit


def test_the_identity_holds_the_settings_that_change_a_score():
    remote = {"kind": "remote", "url": "http://x", "timeout": 3, "retries": 0, "batch": 7, "version": "2", "sign": 1}
    assert score_identity(parse({"v": remote})["v"]) == {"kind": "remote", "url": "http://x", "version": "2"}
    model = {
        "kind": "classifier",
        "path": "x",
        "batch_tokens": 7,
        "max_tokens": 9,
        "output": "logit",
        "dtype": "float32",
    }
    expected = {"kind": "classifier", "path": "x", "max_tokens": 9, "dtype": "float32"}
    assert score_identity(parse({"v": model})["v"]) == expected
    function = {"_target_": "tests.worlds.vowels", "by": 2, "timeout": 9}
    expected = {"kind": "function", "target": "tests.worlds:vowels", "arguments": {"by": 2}}
    assert score_identity(parse({"v": function})["v"]) == expected
    diversity = {"kind": "diversity", "orders": [2, 3, 4], "measure": "product"}
    assert score_identity(parse({"v": diversity})["v"]) == {"kind": "diversity"}
