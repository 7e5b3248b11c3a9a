"""Score matrices. Truth: vowels counted by hand."""

import numpy as np
import pytest

from mapft.rewards import parse
from mapft.rewards.scoring import score_texts
from mapft.utils.errors import UserError
from tests.rewards.requests import VOWELS


def test_the_matrix_has_one_row_per_response_and_one_column_per_value(models):
    judge = {"kind": "classifier", "path": models["judge"], "label": 1}
    matrix = score_texts(parse({"vowels": VOWELS, "judge": judge}), ["p"] * 3, ["aaa", "bbb", "ab"], [7, 7, 9])
    assert matrix.values == ("vowels", "judge")
    np.testing.assert_allclose(matrix.scores[:, 0], [3 / 4, 0, 1 / 3])
    assert matrix.prompt_ids.tolist() == [7, 7, 9]


def is_answer(prompts, completions, answer):
    return [float(text == right) for text, right in zip(completions, answer, strict=True)]


def test_every_score_reads_its_own_columns_in_parts(serve, tmp_path):
    """The remote score is requested and stored for 2 responses at a time."""
    function = {"kind": "function", "target": f"{__name__}:is_answer"}
    remote = {"kind": "remote", "url": serve({"right": function}) + "/score/right", "batch": 2, "columns": ["answer"]}
    level = {"kind": "match", "column": "level"}
    scores = parse({"function": function, "remote": remote, "level": level, "vowels": VOWELS})
    columns = {"answer": ["a", "b", "x", "d", "x"], "level": ["x", "b", "x", "x", "e"]}
    folders = {name: tmp_path / name for name in scores}
    matrix = score_texts(scores, ["p"] * 5, list("abcde"), [0] * 5, folders=folders, columns=columns)
    assert matrix.scores[:, :3].T.tolist() == [[1, 1, 0, 1, 0], [1, 1, 0, 1, 0], [0, 1, 0, 0, 1]]


def test_a_score_that_is_not_finite_names_its_value_and_response():
    broken = parse({"bad": {"kind": "function", "target": "tests.worlds:broken"}})
    with pytest.raises(UserError, match="'bad' is nan for response 2"):
        score_texts(broken, ["p"] * 4, ["r"] * 4, [0] * 4)


def test_a_model_scores_the_longest_texts_first_and_in_the_order_of_the_responses(models, monkeypatch):
    settings = {"kind": "classifier", "path": models["judge"], "label": 1}
    scores, responses = parse({"judge": settings}), ["a", "bb c", "a b c d", "d e", "aa"]
    alone = [score_texts(scores, ["p"], [response], [0]).scores[0, 0] for response in responses]
    monkeypatch.setattr(type(scores["judge"]), "stored_rows", 2)
    seen = []
    together = score_texts(scores, ["p"] * 5, responses, [0] * 5, lambda *done: seen.append(done)).scores[:, 0]
    np.testing.assert_allclose(together, alone, rtol=1e-5)
    assert len(set(alone)) == 5
    assert seen == [("judge", 2, 5), ("judge", 4, 5), ("judge", 5, 5)]
    assert scores["judge"].order(["p"] * 5, responses) == [2, 1, 3, 4, 0]
