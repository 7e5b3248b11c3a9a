"""Prompts from a file. Truth: the lines of the file; a split that depends on each text alone."""

import json
from dataclasses import replace

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mapft.config import DataConfig
from mapft.sampling.prompts import load_prompts
from mapft.sampling.split import split
from mapft.utils.errors import UserError
from tests.strategies import ANYTHING, EXAMPLES


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return DataConfig(path=str(path))


def test_every_format_gives_the_same_prompts_without_duplicates(tmp_path):
    texts = ["one", "two", "one", "three"]
    write(tmp_path / "p.jsonl", [{"prompt": text} for text in texts])
    pd.DataFrame({"prompt": texts}).to_csv(tmp_path / "p.csv")
    pd.DataFrame({"prompt": texts}).to_parquet(tmp_path / "p.parquet")
    for name in ("p.jsonl", "p.csv", "p.parquet"):
        assert load_prompts(DataConfig(path=str(tmp_path / name))) == ["one", "two", "three"]


def test_messages_are_read_from_every_format(tmp_path):
    chat = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello?"}]
    other = [{"role": "user", "content": "Line\u2028break?"}]
    assert load_prompts(write(tmp_path / "p.jsonl", [{"prompt": chat}, {"prompt": other}])) == [chat, other]
    pd.DataFrame({"prompt": [chat, other]}).to_parquet(tmp_path / "p.parquet")
    assert load_prompts(DataConfig(path=str(tmp_path / "p.parquet"))) == [chat, other]


def test_messages_with_the_same_contents_and_other_roles_are_different_prompts(tmp_path):
    one = [{"role": "user", "content": "Be kind.\nHello?"}]
    two = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello?"}]
    assert load_prompts(write(tmp_path / "p.jsonl", [{"prompt": one}, {"prompt": two}, {"prompt": one}])) == [one, two]


def test_texts_become_messages(tmp_path):
    data = write(tmp_path / "p.jsonl", [{"prompt": "a"}, {"prompt": "b"}])
    messages = [[{"role": "user", "content": text}] for text in "ab"]
    assert load_prompts(replace(data, as_chat=True)) == messages


def test_texts_of_a_table_are_not_converted(tmp_path):
    (tmp_path / "p.csv").write_text("prompt\nNA\n007\nNone\n", "utf-8")
    assert load_prompts(DataConfig(path=str(tmp_path / "p.csv"))) == ["NA", "007", "None"]


def test_lone_surrogates_and_byte_order_marks_are_read(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"prompt": "a\\ud800"}\n{"prompt": [{"role": "user", "content": "b"}]}\n')
    with pytest.raises(UserError, match="mixes"):
        load_prompts(DataConfig(path=str(path)))
    path.write_bytes(b'\xef\xbb\xbf{"prompt": "a\\ud800"}\n{"prompt": "b"}\n')
    assert load_prompts(DataConfig(path=str(path))) == ["a?", "b"]
    path.write_bytes('{"prompt": "é"}'.encode("latin-1"))
    with pytest.raises(UserError, match="is not UTF-8"):
        load_prompts(DataConfig(path=str(path)))


def test_the_split_of_a_prompt_depends_on_its_text_alone():
    prompts = [f"prompt {i}" for i in range(2000)]
    training, held_out = split(prompts, 0.25)
    assert set(training) | set(held_out) == set(prompts)
    assert not set(training) & set(held_out)
    assert 400 < len(held_out) < 600
    some_training, some_held_out = split(prompts[::-3], 0.25)
    assert set(some_training) <= set(training)
    assert set(some_held_out) <= set(held_out)
    assert min(map(len, split(["a", "b"], 0.01))) == min(map(len, split(["a", "b"], 0.99))) == 1


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
        load_prompts(DataConfig(path=str(path)))


def test_missing_file_and_unknown_ending(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        load_prompts(DataConfig(path=str(tmp_path / "none.jsonl")))
    (tmp_path / "p.txt").write_text("hello")
    with pytest.raises(UserError, match=r"ends in '.txt'"):
        load_prompts(DataConfig(path=str(tmp_path / "p.txt")))


@EXAMPLES
@given(
    st.binary(max_size=120) | st.lists(ANYTHING, max_size=4).map(lambda rows: "\n".join(map(json.dumps, rows)).encode())
)
@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_any_file_is_read_or_rejected(tmp_path, ending, content):
    path = tmp_path / f"prompts.{ending}"
    path.write_bytes(content)
    try:
        prompts = load_prompts(DataConfig(path=str(path)))
    except UserError:
        return
    assert len(prompts) >= 2
