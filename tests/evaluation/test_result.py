"""evaluation.json. Truth: the object that was written."""

import json
from dataclasses import replace

from mapft.evaluation.result import Estimate
from tests.evaluation.results import evaluation, value_result


def test_an_evaluation_is_read_back_as_it_was_written():
    written = evaluation({"a": value_result(), "b": value_result(target=None, gap_sd=None, met=None)}, cache_key="k")
    written = replace(written, price_ratio=Estimate(1.2, 1.1, 1.3))
    assert type(written).from_dict(json.loads(json.dumps(written.to_dict()))) == written


def test_the_objective_by_hand():
    """lam_a is the pilot's; b is free; KL = 0.2 nats."""
    result = evaluation({"a": value_result(), "b": value_result(target=None)})
    lam = result.solution.lam
    assert lam["a"] > 0 == lam["b"]
    assert result.objective() == lam["a"] * 1.48 - 0.2


def test_the_text_of_a_gap():
    assert value_result().gap_text == "-0.02"
    assert value_result(gap_sd=None, met=None).gap_text == "constant"
    assert value_result(target=None, gap_sd=None, met=None).gap_text == "free"
