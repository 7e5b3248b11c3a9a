"""Prompts from a file. Truth: the lines of the file; a split that depends on each text alone."""

import json
import tracemalloc
from dataclasses import replace
from datetime import datetime

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from mapft.config import DataConfig, Extract
from mapft.sampling.prompts import PromptRow, columns_of, load_prompts
from mapft.sampling.split import split
from mapft.utils.errors import UserError
from tests.strategies import ANYTHING, EXAMPLES


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return DataConfig(path=str(path))


def read(data):
    """The prompts alone."""
    return [row.prompt for row in load_prompts(data)]


def split_texts(texts, evaluation_fraction=0.25):
    sides = split([PromptRow(text) for text in texts], evaluation_fraction)
    return [[row.prompt for row in side] for side in sides]


def test_every_format_gives_the_same_prompts_without_duplicates(tmp_path):
    texts = ["one", "two", "one", "three"]
    write(tmp_path / "p.jsonl", [{"prompt": text} for text in texts])
    pd.DataFrame({"prompt": texts}).to_csv(tmp_path / "p.csv")
    pd.DataFrame({"prompt": texts}).to_parquet(tmp_path / "p.parquet")
    for name in ("p.jsonl", "p.csv", "p.parquet"):
        assert read(DataConfig(path=str(tmp_path / name))) == ["one", "two", "three"]


def test_messages_are_read_from_every_format(tmp_path):
    chat = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello?"}]
    other = [{"role": "user", "content": "Line\u2028break?"}]
    assert read(write(tmp_path / "p.jsonl", [{"prompt": chat}, {"prompt": other}])) == [chat, other]
    pd.DataFrame({"prompt": [chat, other]}).to_parquet(tmp_path / "p.parquet")
    assert read(DataConfig(path=str(tmp_path / "p.parquet"))) == [chat, other]


def test_messages_keep_their_own_keys_in_every_format(tmp_path):
    """Arrow gives every message of a file, and every object in one, the keys of all others."""
    day = [{"role": "user", "content": "Hello?", "day": "x", "place": {"city": "y"}}]
    place = [{"role": "user", "content": "Hello?", "place": {"street": "z"}}]
    rows = [{"prompt": day}, {"prompt": place}]
    assert read(write(tmp_path / "p.jsonl", rows)) == [day, place]
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "p.parquet", tmp_path / "folder" / "train.parquet"):
        parquet.write_table(pa.Table.from_pylist(rows), path)
    assert read(DataConfig(path=str(tmp_path / "p.parquet"))) == [day, place]
    assert read(DataConfig(path=str(tmp_path / "folder"))) == [day, place]


def test_messages_with_the_same_contents_and_other_roles_are_different_prompts(tmp_path):
    one = [{"role": "user", "content": "Be kind.\nHello?"}]
    two = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello?"}]
    assert read(write(tmp_path / "p.jsonl", [{"prompt": one}, {"prompt": two}, {"prompt": one}])) == [one, two]


def test_texts_become_messages(tmp_path):
    data = write(tmp_path / "p.jsonl", [{"prompt": "a"}, {"prompt": "b"}])
    messages = [[{"role": "user", "content": text}] for text in "ab"]
    assert read(replace(data, as_chat=True)) == messages


def test_texts_of_a_table_are_not_converted(tmp_path):
    (tmp_path / "p.csv").write_text("prompt\nNA\n007\nNone\n", "utf-8")
    assert read(DataConfig(path=str(tmp_path / "p.csv"))) == ["NA", "007", "None"]


def test_texts_of_a_table_may_have_commas_quotes_and_line_breaks(tmp_path):
    texts = ["Why, then?", 'Say "no".', "Two\nlines,\r\nor three", 200_000 * "long"]
    quoted = ['"' + text.replace('"', '""') + '"' for text in texts]
    (tmp_path / "p.csv").write_text("prompt,id\n" + "".join(f"{text},1\n\n" for text in quoted), "utf-8", newline="")
    assert read(DataConfig(path=str(tmp_path / "p.csv"))) == texts


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # by datasets before 5.2
def test_a_table_in_the_folder_of_a_dataset_is_not_guessed_either(tmp_path):
    (tmp_path / "folder").mkdir()
    path = tmp_path / "folder" / "train.csv"
    path.write_text("prompt\nWhy?\nWho?\n")
    assert read(DataConfig(path=str(tmp_path / "folder"))) == ["Why?", "Who?"]
    path.write_text("prompt\nWhy, then?\nWho, then?\n")
    with pytest.raises(UserError, match=r"Line 2 of .*train.csv has 2 fields and its header 1"):
        read(DataConfig(path=str(tmp_path / "folder")))


def test_rows_that_are_not_used_are_told(tmp_path):
    data = write(
        tmp_path / "p.jsonl", [{"prompt": text} for text in ["Human: a Assistant:", "b", "Human: c", "Human: a"]]
    )
    told = []
    rows = load_prompts(replace(data, extract=Extract.first_question), report=told.append)
    assert [row.prompt for row in rows] == ["a", "c"]
    path = tmp_path / "p.jsonl"
    assert told == [
        f"1 of 4 rows of {path} have no prompt with data.extract=first_question.",
        f"1 of 4 rows of {path} repeat an earlier one and are left out.",
    ]


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_of_a_long_file_a_random_sample_is_used_that_does_not_depend_on_the_order(tmp_path, ending):
    """Mean and spread of 400 of 10,000 numbers, and their overlap with the 2500 held-out ones, by chance alone."""
    path = tmp_path / f"p.{ending}"

    def sample(texts: list[str], most: int | None) -> list[str]:
        frame = pd.DataFrame({"prompt": texts})
        writers = {"jsonl": frame.to_json, "csv": frame.to_csv, "parquet": frame.to_parquet}
        writers[ending](path, **{"orient": "records", "lines": True} if ending == "jsonl" else {"index": False})
        return [row.prompt for row in load_prompts(DataConfig(path=str(path), max_prompts=most), report=told.append)]

    told = []
    texts = [f"{number:05d}" for number in range(10_000)]
    chosen = sample(texts, 400)
    assert told == [f"{path} has 10000 rows; a random sample of 400 is used (data.max_prompts)."]
    assert chosen == sorted(chosen)
    assert len(set(chosen)) == 400
    numbers, sd = [int(text) for text in chosen], 10_000 / np.sqrt(12)
    assert abs(np.mean(numbers) - 5000) < 4 * sd / np.sqrt(400)
    assert abs(np.std(numbers) / sd - 1) < 4 / np.sqrt(5 * 400)  # of a uniform distribution
    assert abs(len(split_texts(chosen)[1]) - 100) < 4 * np.sqrt(400 * 0.25 * 0.75)
    assert set(sample(texts[::-1] + texts[:5000], 400)) == set(chosen)
    assert len(sample(texts, 10_000)) == len(sample(texts, None)) == 10_000
    assert told[1:] == [f"{path} has 15000 rows; a random sample of 400 is used (data.max_prompts)."]


def test_a_long_file_is_not_held_in_memory(tmp_path):
    """50 MB of prompts, of which 1000 are used."""
    row = json.dumps({"prompt": "x" * 1000})
    with (tmp_path / "p.jsonl").open("w") as file:
        file.writelines(f"{row[:-5]}{number:06d}{row[-2:]}\n" for number in range(50_000))
    tracemalloc.start()
    rows = load_prompts(DataConfig(path=str(tmp_path / "p.jsonl"), max_prompts=1000), {"v": Reads()})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(rows) == 1000
    assert peak < 10e6


class Reads:
    """A score that reads columns and accepts rows whose `answer` is not 13."""

    def __init__(self, *names):
        self.names = names

    def reads(self, available):
        return list(self.names)

    def row_error(self, row):
        return "13 is unlucky" if row.get("answer") == 13 else ""


def test_rows_with_other_values_in_a_column_that_is_read_are_not_duplicates(tmp_path):
    rows = [{"prompt": "a", "answer": answer, "id": n} for n, answer in enumerate([1, "1", 1, None, [1], 1.5, True])]
    rows += [{"prompt": "a"}, {"prompt": "b", "id": 9}]
    data = write(tmp_path / "p.jsonl", rows)
    read_rows = load_prompts(data, {"v": Reads("answer")})
    assert [row.prompt for row in read_rows] == ["a"] * 6 + ["b"]
    assert json.dumps(columns_of(read_rows)) == '{"answer": [1, "1", null, [1], 1.5, true, null]}'
    assert columns_of(load_prompts(data, {"v": Reads()})) == {}
    assert [row.columns["id"] for row in load_prompts(data, {"v": Reads("id")})] == [*range(7), None, 9]
    both = load_prompts(data, {"v": Reads("answer"), "w": Reads("prompt", "answer")})
    assert columns_of(both)["prompt"] == ["a"] * 6 + ["b"]


def test_columns_keep_their_values_in_every_format(tmp_path):
    """A table of texts has texts; an integer beside a null stays one."""
    values = {"i": [3, None], "b": [True, None], "t": ["007", ""], "l": [[1.5, None], []], "f": [2.0, None]}
    table = pa.table({"prompt": ["one", "two"]} | values)
    parquet.write_table(table, tmp_path / "p.parquet")
    rows = [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]
    write(tmp_path / "p.jsonl", [{"prompt": text} | row for text, row in zip(["one", "two"], rows, strict=True)])
    (tmp_path / "folder").mkdir()
    parquet.write_table(table, tmp_path / "folder" / "train.parquet")
    for name in ("p.parquet", "p.jsonl", "folder"):
        columns = columns_of(load_prompts(DataConfig(path=str(tmp_path / name)), {"v": Reads(*values)}))
        assert json.dumps(columns, sort_keys=True) == json.dumps(values, sort_keys=True), name
    (tmp_path / "p.csv").write_text("prompt,answer\none,007\ntwo,\n")
    assert columns_of(load_prompts(DataConfig(path=str(tmp_path / "p.csv")), {"v": Reads("answer")})) == {
        "answer": ["007", ""]
    }


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ([datetime(2025, 4, 24)] * 2, r"The column 'answer' in row 1 of .* is datetime.* which JSON does not have"),
        ([1.0, float("nan")], "The column 'answer' in row 2 of .* is nan, which JSON does not have"),
        ([1, 13], r"Row 2 of .*p.parquet cannot be scored by rewards.v: 13 is unlucky\."),
    ],
)
def test_a_value_that_no_score_can_use_names_its_row(tmp_path, column, message):
    parquet.write_table(pa.table({"prompt": ["one", "two"], "answer": column}), tmp_path / "p.parquet")
    data = DataConfig(path=str(tmp_path / "p.parquet"))
    assert read(data) == ["one", "two"]
    with pytest.raises(UserError, match=message):
        load_prompts(data, {"v": Reads("answer")})


def test_rows_with_one_prompt_are_on_one_side_of_the_split():
    rows = [PromptRow(text, {"answer": n}) for n in range(3) for text in "abcdefgh"]
    for fraction in (0.01, 0.3, 0.6, 0.99):
        training, held_out = split(rows, fraction)
        assert len(training) + len(held_out) == 24
        assert len(held_out) % 3 == 0
        assert {row.prompt for row in held_out} == set(split_texts("abcdefgh", fraction)[1])
        assert training
        assert held_out
        assert not {row.prompt for row in training} & {row.prompt for row in held_out}
    with pytest.raises(UserError, match="All prompts have the text 'a', so none can be held out"):
        split(rows[::8], 0.5)


def test_lone_surrogates_and_byte_order_marks_are_read(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"prompt": "a\\ud800"}\n{"prompt": [{"role": "user", "content": "b"}]}\n')
    with pytest.raises(UserError, match="mixes"):
        read(DataConfig(path=str(path)))
    path.write_bytes(b'\xef\xbb\xbf{"prompt": "a\\ud800"}\n{"prompt": "b"}\n')
    assert read(DataConfig(path=str(path))) == ["a?", "b"]
    path.write_bytes('{"prompt": "é"}'.encode("latin-1"))
    with pytest.raises(UserError, match="is not UTF-8"):
        read(DataConfig(path=str(path)))


def test_the_split_of_a_prompt_depends_on_its_text_alone():
    prompts = [f"prompt {i}" for i in range(2000)]
    training, held_out = split_texts(prompts)
    assert set(training) | set(held_out) == set(prompts)
    assert not set(training) & set(held_out)
    assert 400 < len(held_out) < 600
    some_training, some_held_out = split_texts(prompts[::-3])
    assert set(some_training) <= set(training)
    assert set(some_held_out) <= set(held_out)
    assert min(map(len, split_texts("ab", 0.01))) == min(map(len, split_texts("ab", 0.99))) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "0 distinct prompts"),
        ('{"prompt": "only"}\n', "1 distinct prompts"),
        ('{"prompt": "a"}\n{"text": "b"}\n', "Row 2 .* has no column 'prompt'"),
        ('{"prompt": "a"}\n{"prompt": " "}\n', "row 2 .* is ' '"),
        ('{"prompt": "a"}\n{"prompt": "  "}\n', "non-empty"),
        ('{"prompt": "a"}\nnonsense\n', "Line 2 .* is not JSON"),
        ("[1, 2]\n", "Line 1 .* is a list"),
        ('{"prompt": "a"}\n{"prompt": [{"role": "user", "content": "b"}]}\n', "mixes texts and lists"),
    ],
)
def test_an_invalid_row_is_one_sentence(tmp_path, content, message):
    path = tmp_path / "p.jsonl"
    path.write_text(content, "utf-8")
    with pytest.raises(UserError, match=message):
        read(DataConfig(path=str(path)))


def test_missing_file_and_unknown_ending(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        read(DataConfig(path=str(tmp_path / "none.jsonl")))
    (tmp_path / "p.txt").write_text("hello")
    with pytest.raises(UserError, match=r"ends in '.txt'"):
        read(DataConfig(path=str(tmp_path / "p.txt")))


@EXAMPLES
@given(
    st.binary(max_size=120) | st.lists(ANYTHING, max_size=4).map(lambda rows: "\n".join(map(json.dumps, rows)).encode())
)
@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_any_file_is_read_or_rejected(tmp_path, ending, content):
    path = tmp_path / f"prompts.{ending}"
    path.write_bytes(content)
    try:
        prompts = read(DataConfig(path=str(path)))
    except UserError:
        return
    assert len(prompts) >= 2
