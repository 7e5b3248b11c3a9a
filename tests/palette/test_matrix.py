"""RewardMatrix: what it refuses, and exact round trips. Truth: the contract; hand-made tables."""

import datetime

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from mapft.errors import UserError
from mapft.palette import RewardMatrix


def small():
    return RewardMatrix([[1.0, 0.1], [3.0, 0.2], [5.0, 1 / 3]], ["humor", "helpful"], [7, 7, 9])


def test_statistics_by_hand():
    matrix = small()
    assert matrix.base["humor"] == 3.0
    assert matrix.sd["humor"] == pytest.approx(np.sqrt(8 / 3))
    assert matrix.groups.sizes.tolist() == [2, 1]
    assert matrix.groups.starts.tolist() == [0, 2]
    assert matrix.groups.order.tolist() == [0, 1, 2]
    assert len(matrix) == 3


def test_a_constant_value_has_sd_exactly_zero_and_its_own_level():
    matrix = RewardMatrix(np.full((10, 1), 0.1), ["x"], np.arange(10))
    assert matrix.sd["x"] == 0.0
    assert matrix.base["x"] == 0.1


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_non_finite_scores_are_refused_by_value_and_row(number):
    scores = np.zeros((4, 2))
    scores[2, 1] = number
    with pytest.raises(UserError, match=r"'helpful' in row 2 "):
        RewardMatrix(scores, ["humor", "helpful"], np.zeros(4, int))


@pytest.mark.parametrize(
    ("scores", "values", "ids", "sentence"),
    [
        ([[1.0, 2.0]], ["a", "a"], [0], "a occurs more than once"),
        ([[1.0, 2.0]], ["a"], [0], r"shape \(1, 2\) but 1 value"),
        ([1.0, 2.0], ["a"], [0, 1], r"shape \(2,\)"),
        ([[1.0]], ["a"], [0, 1], "one prompt id per row"),
        ([[1.0]], ["a"], [0.5], "integers"),
        (np.empty((0, 1)), ["a"], np.empty(0, int), "empty"),
        ([[]], [], [0], "names no value"),
        ([[1.0]], [" "], [0], "cannot name a value"),
        ([[1.0]], ["prompt_id"], [0], "cannot name a value"),
        ([["text"]], ["a"], [0], "table of numbers"),
    ],
)
def test_malformed_input_is_one_sentence(scores, values, ids, sentence):
    with pytest.raises(UserError, match=sentence):
        RewardMatrix(scores, values, ids)


def test_it_is_immutable_and_does_not_share_memory_with_its_source():
    source = np.ones((2, 1))
    matrix = RewardMatrix(source, ["a"], [0, 1])
    source[:] = 5.0
    assert matrix.scores.max() == 1.0
    with pytest.raises(ValueError, match="read-only"):
        matrix.scores[0, 0] = 2.0
    with pytest.raises(AttributeError):
        matrix.values = ("b",)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_round_trip_is_exact_to_the_last_bit(tmp_path, kind):
    rng = np.random.default_rng(0)
    matrix = RewardMatrix(rng.normal(size=(50, 2)) * [1e-9, 1e9], ["humor", "helpful"], rng.integers(-3, 2**62, 50))
    path = tmp_path / "new folder" / f"scores.{kind}"
    getattr(matrix, f"to_{kind}")(path)
    again = getattr(RewardMatrix, f"from_{kind}")(path)
    assert again.values == matrix.values
    np.testing.assert_array_equal(again.scores, matrix.scores)
    np.testing.assert_array_equal(again.prompt_ids, matrix.prompt_ids)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_write_that_breaks_off_leaves_the_old_file_whole(tmp_path, kind, monkeypatch):
    path = tmp_path / f"scores.{kind}"
    getattr(small(), f"to_{kind}")(path)
    before = path.read_bytes()

    def disk_full(temporary, target):
        raise OSError("disk full")

    monkeypatch.setattr(type(path), "replace", disk_full)
    with pytest.raises(OSError, match="disk full"):
        getattr(RewardMatrix([[0.0]], ["other"], [0]), f"to_{kind}")(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_text_columns_are_ignored_only_by_name(tmp_path):
    path = tmp_path / "scores.csv"
    path.write_text("prompt_id,text,humor\n0,hello,1.5\n1,world,2.5\n")
    with pytest.raises(UserError, match=r"'text'.*ignore.*'hello'"):
        RewardMatrix.from_csv(path)
    matrix = RewardMatrix.from_csv(path, ignore=["text"])
    assert matrix.values == ("humor",)
    assert matrix.scores[:, 0].tolist() == [1.5, 2.5]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("humor\n1\n", "no column prompt_id, only humor"),
        ("prompt_id,humor,humor\n0,1,2\n", "more than one column named humor"),
        ("prompt_id,humor\n0,1\n1,\n", "'humor' in row 1 "),
        ("prompt_id,humor\n", "empty"),
        ("", "only no columns"),
        ("prompt_id,humor\n0,1\n1,2,3\n", "row 1 .* has 3 cells but the header has 2"),
        ("prompt_id\n1\n", "names no value"),
        ("prompt_id,humor\nx,1\n", "integers"),
    ],
)
def test_malformed_files_are_one_sentence(tmp_path, text, sentence):
    path = tmp_path / "scores.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=sentence):
        RewardMatrix.from_csv(path)


def test_missing_file_and_unknown_ignore(tmp_path):
    with pytest.raises(UserError, match="no score matrix at"):
        RewardMatrix.from_csv(tmp_path / "nowhere.csv")
    small().to_csv(tmp_path / "scores.csv")
    with pytest.raises(UserError, match="no column text to ignore"):
        RewardMatrix.from_csv(tmp_path / "scores.csv", ignore=["text"])


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"prompt_id": [0.2, 0.7, 1.2], "a": [1.0, 2.0, 3.0]}, "'prompt_id' of .* holds double and must hold integers"),
        ({"prompt_id": [0, None, 1], "a": [1.0, 2.0, 3.0]}, "holds int64 with 1 nulls and must hold integers"),
        ({"prompt_id": [0, 0, 1], "a": ["x", "y", "z"]}, "'a' of .* must hold numbers"),
        ({"prompt_id": [0, 0, 1], "a": [datetime.datetime(2026, 1, 1)] * 3}, "'a' of .* holds timestamp"),
    ],
)
def test_parquet_columns_of_the_wrong_type_are_refused(tmp_path, columns, words):
    parquet.write_table(pa.table(columns), tmp_path / "scores.parquet")
    with pytest.raises(UserError, match=words):
        RewardMatrix.from_parquet(tmp_path / "scores.parquet")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"prompt_id,a\n99999999999999999999,1.0\n", "'prompt_id' of .* must hold integers"),
        ("prompt_id,a\n0,1.0,\u00e9".encode("latin-1"), "is not a csv file in UTF-8"),
    ],
)
def test_csv_files_that_cannot_be_read_are_one_sentence(tmp_path, content, words):
    (tmp_path / "scores.csv").write_bytes(content)
    with pytest.raises(UserError, match=words):
        RewardMatrix.from_csv(tmp_path / "scores.csv")


def test_a_torn_parquet_file_is_one_sentence(tmp_path):
    (tmp_path / "scores.parquet").write_bytes(b"PAR1 torn")
    with pytest.raises(UserError, match="is not a parquet file that can be read"):
        RewardMatrix.from_parquet(tmp_path / "scores.parquet")


def test_a_csv_from_a_spreadsheet_with_a_byte_order_mark(tmp_path):
    (tmp_path / "scores.csv").write_bytes(b"\xef\xbb\xbfprompt_id,a\n0,1.5\n")
    assert RewardMatrix.from_csv(tmp_path / "scores.csv").base == {"a": 1.5}
