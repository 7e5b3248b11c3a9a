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


def test_a_score_that_is_not_finite_names_its_value_and_response():
    broken = parse({"bad": {"kind": "function", "target": "tests.worlds:broken"}})
    with pytest.raises(UserError, match="'bad' is nan for response 2"):
        score_texts(broken, ["p"] * 4, ["r"] * 4, [0] * 4)
