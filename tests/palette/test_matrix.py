"""ScoreMatrix: invalid input, and exact round trips through files. Truth: its contract; tables written by hand."""

import datetime

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from mapft.palette import ScoreMatrix
from mapft.utils.errors import UserError


def small():
    return ScoreMatrix([[1.0, 0.1], [3.0, 0.2], [5.0, 1 / 3]], ["humor", "helpful"], [7, 7, 9])


def test_statistics_by_hand():
    matrix = small()
    assert matrix.base["humor"] == 3.0
    assert matrix.sd["humor"] == pytest.approx(np.sqrt(8 / 3))
    assert matrix.groups.sizes.tolist() == [2, 1]
    assert matrix.groups.starts.tolist() == [0, 2]
    assert matrix.groups.order.tolist() == [0, 1, 2]
    assert len(matrix) == 3


def test_a_constant_value_has_sd_exactly_zero_and_its_own_level():
    matrix = ScoreMatrix(np.full((10, 1), 0.1), ["x"], np.arange(10))
    assert matrix.sd["x"] == 0.0
    assert matrix.base["x"] == 0.1


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_non_finite_scores_are_refused_by_value_and_row(number):
    scores = np.zeros((4, 2))
    scores[2, 1] = number
    with pytest.raises(UserError, match=r"'helpful' in row 2 "):
        ScoreMatrix(scores, ["humor", "helpful"], np.zeros(4, int))


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
def test_invalid_input_is_refused(scores, values, ids, sentence):
    with pytest.raises(UserError, match=sentence):
        ScoreMatrix(scores, values, ids)


def test_a_matrix_is_immutable_and_a_copy():
    source = np.ones((2, 1))
    matrix = ScoreMatrix(source, ["a"], [0, 1])
    source[:] = 5.0
    assert matrix.scores.max() == 1.0
    with pytest.raises(ValueError, match="read-only"):
        matrix.scores[0, 0] = 2.0
    with pytest.raises(AttributeError):
        matrix.values = ("b",)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_round_trip_is_exact_to_the_last_bit(tmp_path, kind):
    rng = np.random.default_rng(0)
    matrix = ScoreMatrix(rng.normal(size=(50, 2)) * [1e-9, 1e9], ["humor", "helpful"], rng.integers(-3, 2**62, 50))
    path = tmp_path / "new folder" / f"scores.{kind}"
    getattr(matrix, f"to_{kind}")(path)
    again = getattr(ScoreMatrix, f"from_{kind}")(path)
    assert again.values == matrix.values
    np.testing.assert_array_equal(again.scores, matrix.scores)
    np.testing.assert_array_equal(again.prompt_ids, matrix.prompt_ids)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_failed_write_leaves_the_old_file(tmp_path, kind, monkeypatch):
    path = tmp_path / f"scores.{kind}"
    getattr(small(), f"to_{kind}")(path)
    before = path.read_bytes()

    def disk_full(temporary, target):
        raise OSError("disk full")

    monkeypatch.setattr(type(path), "replace", disk_full)
    with pytest.raises(UserError, match="scores.* cannot be written .disk full."):
        getattr(ScoreMatrix([[0.0]], ["other"], [0]), f"to_{kind}")(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_text_columns_are_ignored_only_by_name(tmp_path):
    path = tmp_path / "scores.csv"
    path.write_text("prompt_id,text,humor\n0,hello,1.5\n1,world,2.5\n")
    with pytest.raises(UserError, match=r"'text'.*ignore.*'hello'"):
        ScoreMatrix.from_csv(path)
    matrix = ScoreMatrix.from_csv(path, ignore=["text"])
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
def test_invalid_csv_files_are_refused(tmp_path, text, sentence):
    path = tmp_path / "scores.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=sentence):
        ScoreMatrix.from_csv(path)


def test_missing_file_and_unknown_ignore(tmp_path):
    with pytest.raises(UserError, match="the score matrix .*nowhere.csv is missing"):
        ScoreMatrix.from_csv(tmp_path / "nowhere.csv")
    small().to_csv(tmp_path / "scores.csv")
    with pytest.raises(UserError, match="no column text to ignore"):
        ScoreMatrix.from_csv(tmp_path / "scores.csv", ignore=["text"])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"prompt_id": [0.2, 0.7, 1.2], "a": [1.0, 2.0, 3.0]},
            "'prompt_id' of .* has type double but must hold integers",
        ),
        ({"prompt_id": [0, None, 1], "a": [1.0, 2.0, 3.0]}, "has type int64 with 1 nulls but must hold integers"),
        ({"prompt_id": [0, 0, 1], "a": ["x", "y", "z"]}, "'a' of .* must hold numbers"),
        ({"prompt_id": [0, 0, 1], "a": [datetime.datetime(2026, 1, 1)] * 3}, "'a' of .* has type timestamp"),
    ],
)
def test_parquet_columns_of_the_wrong_type_are_refused(tmp_path, columns, message):
    parquet.write_table(pa.table(columns), tmp_path / "scores.parquet")
    with pytest.raises(UserError, match=message):
        ScoreMatrix.from_parquet(tmp_path / "scores.parquet")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"prompt_id,a\n99999999999999999999,1.0\n", "'prompt_id' of .* must hold integers"),
        ("prompt_id,a\n0,1.0,\u00e9".encode("latin-1"), "is not a csv file in UTF-8"),
    ],
)
def test_unreadable_csv_files_are_refused(tmp_path, content, message):
    (tmp_path / "scores.csv").write_bytes(content)
    with pytest.raises(UserError, match=message):
        ScoreMatrix.from_csv(tmp_path / "scores.csv")


def test_a_truncated_parquet_file_is_refused(tmp_path):
    (tmp_path / "scores.parquet").write_bytes(b"PAR1 torn")
    with pytest.raises(UserError, match="is not a readable parquet file"):
        ScoreMatrix.from_parquet(tmp_path / "scores.parquet")


def test_a_csv_from_a_spreadsheet_with_a_byte_order_mark(tmp_path):
    (tmp_path / "scores.csv").write_bytes(b"\xef\xbb\xbfprompt_id,a\n0,1.5\n")
    assert ScoreMatrix.from_csv(tmp_path / "scores.csv").base == {"a": 1.5}
