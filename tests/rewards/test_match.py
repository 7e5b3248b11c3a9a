"""Right answers. Truth: matches by hand; the answers of the rows of a file in every stage (tests/pipeline)."""

import pytest

from mapft.rewards import parse
from mapft.rewards.loader import RewardModels
from mapft.utils.errors import UserError


def matches(responses, answers, **settings):
    models = RewardModels(parse({"v": {"kind": "match", "column": "answer"} | settings}))
    return models.score("v", [""] * len(responses), responses, {"answer": answers, "id": answers}).tolist()


@pytest.mark.parametrize(
    ("settings", "response", "answer", "expected"),
    [
        ({}, " Paris\n", "Paris", 1),
        ({}, "Paris.", "Paris", 0),
        ({}, "paris", "Paris", 0),
        ({"ignore_case": True}, "paris", "PARIS", 1),
        ({"ignore_case": True}, "STRASSE", "straße", 1),
        ({}, "42", 42, 1),
        ({}, "true", True, 1),
        ({}, "Lyon", ["Paris", "Lyon"], 1),
        ({}, "Nice", ["Paris", "Lyon"], 0),
        ({}, "", "", 1),
        ({"how": "contains"}, "It is Paris, of course.", "Paris", 1),
        ({"how": "contains"}, "It is paris.", "Paris", 0),
        ({"how": "contains", "ignore_case": True}, "It is paris.", "Paris", 1),
        ({"how": "contains"}, "Is a.b", "a.b", 1),
        ({"how": "contains"}, "Is axb", "a.b", 0),
        ({"how": "number"}, "3 + 4 makes 7.", 7, 1),
        ({"how": "number"}, "7, because 3 + 4", 7, 0),
        ({"how": "number"}, "It costs $1,200.50.", "She pays 2 * 600.25.\n#### 1200.5", 1),
        ({"how": "number"}, "-3", "3", 0),
        ({"how": "number"}, "10-3", "3", 1),
        ({"how": "number"}, "x=-3", -3, 1),
        ({"how": "number"}, "42.0", "42", 1),
        ({"how": "number"}, "1,2", "2", 1),
        ({"how": "number"}, "1,2000", 2000, 1),
        ({"how": "number"}, "0.50", ".5", 1),
        ({"how": "number"}, "1.5e3", 1500, 1),
        ({"how": "number"}, "9" * 50 + "8", "9" * 51, 0),
        ({"how": "number"}, "version v12", 12, 0),
        ({"how": "number"}, "no idea", 0, 0),
        ({"how": "number"}, "12", [11, 12], 1),
        ({"how": "regex"}, "on 24 April", r"\b24(th)? (of )?April\b", 1),
        ({"how": "regex"}, "on 24 april", r"\b24(th)? (of )?April\b", 0),
        ({"how": "regex", "ignore_case": True}, "on 24 april", r"April", 1),
        ({"how": "regex"}, "b", ["a", "^b$"], 1),
        ({"extract": r"answer: (\w+)"}, "answer: 3 no, answer: 4!", 4, 1),
        ({"extract": r"answer: (\w+)"}, "4", 4, 0),
        ({"extract": r"<b>.*?</b>"}, "x <b>4</b> y", "<b>4</b>", 1),
        ({"extract": r"answer:(?: (\d))?"}, "answer:", 4, 0),
        ({"extract": r"ANSWER: (.*)", "ignore_case": True, "how": "number"}, "answer: 4 apples of 9\n7", 9, 1),
    ],
)
def test_what_counts_as_a_match(settings, response, answer, expected):
    assert matches([response], [answer], **settings) == [expected]


def test_every_response_is_compared_with_the_answer_of_its_row():
    assert matches(["a", "b", "a"], ["a", "a", ["b", "a"]], sign=2.0) == [2, 0, 2]
    score = parse({"v": {"kind": "match", "column": "answer"}})["v"]
    assert (score.reads(["id"]), score.bounds, score.unit) == (["answer"], (0, 1), "probability")


@pytest.mark.parametrize(
    ("settings", "answer", "message"),
    [
        ({}, None, "its answer is None; it must be a text, a number, or a list of these"),
        ({}, [], "its answer is []; it must be a text"),
        ({}, [["a"]], "it must be a text"),
        ({}, {"a": 1}, "it must be a text"),
        ({"how": "number"}, "seven", "its answer is 'seven', which has no number"),
        ({"how": "number"}, [7, "seven"], "which has no number"),
        ({"how": "contains"}, " ", "its answer is ' ', which every response contains"),
        ({"how": "regex"}, "(", "its answer is '(', which is not a regular expression (missing ), unterminated"),
    ],
)
def test_an_answer_that_cannot_match_is_reported(settings, answer, message):
    score = parse({"v": {"kind": "match", "column": "answer"} | settings})["v"]
    assert message in score.row_error({"answer": answer})
    with pytest.raises(UserError) as caught:
        matches(["a"], [answer], **settings)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"extract": "("}, "rewards.v.extract='(' is invalid; it must be a regular expression (missing )"),
        ({"column": "prompts"}, "rewards.v.column=prompts is invalid; it must be another name"),
        ({"how": "same"}, "rewards.v.how=same is unknown; use one of exact, contains, number, regex"),
    ],
)
def test_an_invalid_setting_is_one_sentence(settings, message):
    with pytest.raises(UserError) as caught:
        parse({"v": {"kind": "match", "column": "answer"} | settings})
    assert message in str(caught.value)
