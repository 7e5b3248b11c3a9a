"""Columns of the data in scores, in every stage. Truth: the lines of the file of prompts."""

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mapft.cli import main
from mapft.rewards import parse
from tests import worlds
from tests.rewards import tiny
from tests.worlds import PROMPTS, SMALL, entries, own, vowels

ANSWERS = [42, "42", 2.5, True, None, "a", ["a", 1, None], {"b": [2]}, "\u2028é\ud800", 10**20]


def recorded(prompts, completions, answer, **columns):
    """Vowels; the prompts with their columns are written down in $ASKED."""
    rows = [
        [prompt, {"answer": answer[n]} | {name: column[n] for name, column in columns.items()}]
        for n, prompt in enumerate(prompts)
    ]
    with Path(os.environ["ASKED"]).open("a") as file:
        file.write("".join(json.dumps(row, sort_keys=True) + "\n" for row in rows))
    return vowels(prompts, completions)


def unread(prompts, completions, **columns):
    """Vowels; it is given no column unless the settings name one."""
    assert not columns
    return vowels(prompts, completions)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Every prompt twice, with two answers; one line has no answer."""
    paths = worlds.build(tmp_path_factory.mktemp("world"))
    answers = [[ANSWERS[n % len(ANSWERS)], ANSWERS[(n + 1) % len(ANSWERS)]] for n in range(len(PROMPTS))]
    rows = [{"question": PROMPTS[n], "answer": answers[n][k], "level": k} for k in (0, 1) for n in range(len(PROMPTS))]
    rows += [{"question": PROMPTS[0]}, {"question": PROMPTS[0], "answer": 42, "level": 1}, *rows[:2]]
    paths["prompts"].write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return paths


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """asked() -> {(prompt, JSON of its columns)} that the function was given since the last call."""
    path = tmp_path / "asked.jsonl"
    monkeypatch.setenv("ASKED", str(path))

    def read():
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return {(prompt, json.dumps(columns, sort_keys=True)) for prompt, columns in map(json.loads, lines)}

    return read


def rows_of(path):
    """{(prompt, JSON of the columns that the function reads)} of a file of prompts."""
    rows = [json.loads(line.replace("\\ud800", "?")) for line in path.read_text("utf-8").splitlines()]
    return {
        (row["question"], json.dumps({"answer": row.get("answer"), "level": row.get("level")}, sort_keys=True))
        for row in rows
    }


REWARD = ["rewards.vowels.target=tests.pipeline.test_columns:recorded", "+rewards.vowels.columns=[level]"]


def test_every_stage_gives_a_function_the_columns_of_its_row(world, tmp_path, asked):
    arguments = own(world, tmp_path / "runs", *SMALL, *REWARD, "evaluation.bootstrap=100", "trainer.num_generations=2")
    truth = rows_of(world["prompts"])
    assert len(truth) == 2 * len(PROMPTS) + 2  # one without an answer, one with another level; the last repeat others
    assert main(["score", *arguments]) == 0
    pilot = asked()
    assert pilot <= truth
    assert main(["train", *arguments]) == 0
    assert asked() == pilot  # all training prompts are in the pilot
    policies = "+evaluation.policies.wide={candidates: 2}"
    assert main(["evaluate", *arguments, policies]) == 0
    assert asked() == truth - pilot
    assert not {prompt for prompt, _ in pilot} & {prompt for prompt, _ in truth - pilot}
    assert main(["decode", *arguments, "decoding.candidates=2"]) == 0
    assert asked() == truth - pilot
    (tmp_path / "more.jsonl").write_text(json.dumps({"question": "Who?", "answer": ["x"], "level": 3}) + "\n")
    assert main(["decode", *arguments, "decoding.candidates=2", f"decoding.prompts={tmp_path / 'more.jsonl'}"]) == 0
    assert asked() == {("Who?", '{"answer": ["x"], "level": 3}')}
    sequential = ["mode=sequential", "mode.rounds=1", "mode.visit_episodes=32", "mode.smallest_step=0"]
    assert main(["train", *arguments, *sequential]) == 0
    assert asked() == pilot


def test_scores_are_cached_by_the_columns_that_they_read(world, tmp_path, asked):
    """The level is read by one of the two scores, and the column `unread` by none."""
    lines = world["prompts"].read_text("utf-8").splitlines()
    path = tmp_path / "prompts.jsonl"
    arguments = ["score", *own(world, tmp_path / "runs", *REWARD), f"data.path={path}"]

    def folders(more=lambda number: {}):
        rows = [json.loads(line) | more(number) for number, line in enumerate(lines)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        assert main(arguments) == 0
        asked()
        return {entry.name for entry in entries(tmp_path / "runs" / "cache") if entry.name.startswith("score-")}

    first = folders()
    assert sorted(name.split("-")[1] for name in first) == ["judge", "vowels"]
    assert folders(lambda number: {"unread": number}) == first
    other = folders(lambda number: {"level": 7})
    assert [name.split("-")[1] for name in other - first] == ["vowels"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["rewards.vowels.target=tests.pipeline.test_columns:recorded", "data.path={plain}"],
            "rewards.vowels reads the column 'answer', which the data does not have (it has question)",
        ),
        (
            ["rewards.vowels.target=tests.pipeline.test_columns:unread", "+rewards.vowels.columns=[lvel]"],
            "rewards.vowels reads the column 'lvel', which the data does not have (it has question, answer, level)",
        ),
        (
            ["+rewards.there={kind: remote, url: 'http://127.0.0.1:9', columns: [Answer]}"],
            "rewards.there reads the column 'Answer', which the data does not have",
        ),
        (
            ["+rewards.right={kind: match, column: answer}"],
            "Row 5 of {data} cannot be scored by rewards.right: its answer is None; it must be a text",
        ),
        (["+rewards.vowels.columns=[completions]"], "it must be other names than prompts and completions"),
    ],
)
def test_a_column_that_the_data_lacks_is_reported_before_the_pilot(world, tmp_path, capfd, overrides, message):
    plain = tmp_path / "plain.jsonl"
    plain.write_text("".join(json.dumps({"question": prompt}) + "\n" for prompt in PROMPTS))
    assert (
        main(["run", *own(world, tmp_path / "runs"), *[word.replace("{plain}", str(plain)) for word in overrides]]) == 2
    )
    assert message.replace("{data}", str(world["prompts"])) in capfd.readouterr().err
    assert not list((tmp_path / "runs").glob("*/samples.parquet"))


def test_a_right_answer_is_one_line_of_settings(world, tmp_path):
    """The answer is the letter that the prompt's line names."""
    letters = dict(zip(PROMPTS, "aeiou" * len(PROMPTS), strict=False))
    path = tmp_path / "letters.jsonl"
    path.write_text("".join(json.dumps({"question": p, "letter": letter}) + "\n" for p, letter in letters.items()))
    match = "+rewards.right={kind: match, column: letter, how: contains}"
    assert main(["score", *own(world, tmp_path, match, "+palette.quantiles.right=0.6"), f"data.path={path}"]) == 0
    [folder] = tmp_path.glob("run-*")
    samples, scores = pd.read_parquet(folder / "samples.parquet"), pd.read_parquet(folder / "scores.parquet")
    expected = [
        float(letters[prompt] in text) for prompt, text in zip(samples["prompt"], samples["response"], strict=True)
    ]
    assert scores["right"].tolist() == expected
    assert set(expected) == {0, 1}


def test_a_judge_asks_about_a_column_and_can_be_sampled_by_rejection(world, tmp_path):
    """Pilot scores are those of the judge by itself; training and rejection, which needs bounds, run with them."""
    letters = dict(zip(PROMPTS, "aeiou" * len(PROMPTS), strict=False))
    path = tmp_path / "letters.jsonl"
    path.write_text("".join(json.dumps({"question": p, "letter": letter}) + "\n" for p, letter in letters.items()))
    settings = {"path": tiny.judge(tmp_path, "reader"), "question": "Is {letter} in it?", "clip": 3.0}
    words = ["+rewards.letter.kind=judge", "+rewards.letter.clip=3.0"]
    words += [f"+rewards.letter.{name}='{settings[name]}'" for name in ("path", "question")]
    more = [*SMALL, *words, f"data.path={path}", "~rewards.vowels", "~rewards.judge", "decoding.choose=rejection"]
    arguments = own(world, tmp_path / "runs", *more, palette="+palette.sd.letter=0.2")
    assert main(["score", *arguments]) == 0
    [folder] = (tmp_path / "runs").glob("run-*")
    samples, scores = pd.read_parquet(folder / "samples.parquet"), pd.read_parquet(folder / "scores.parquet")
    judge = parse({"letter": settings | {"kind": "judge"}})["letter"].load("letter")
    columns = {"letter": [letters[prompt] for prompt in samples["prompt"]]}
    expected = judge.score(samples["prompt"].tolist(), samples["response"].tolist(), columns)
    np.testing.assert_allclose(scores["letter"], expected, atol=1e-4)
    assert np.ptp(expected) > 1
    assert main(["train", *arguments]) == 0
    assert main(["decode", *arguments]) == 0


def test_the_pilot_has_one_row_per_prompt_where_no_score_reads_a_column(world, tmp_path):
    target = "rewards.vowels.target=tests.pipeline.test_columns:unread"
    assert main(["score", *own(world, tmp_path), target]) == 0
    [path] = tmp_path.glob("run-*/samples.parquet")
    samples = pd.read_parquet(path)
    assert samples["prompt_id"].nunique() == samples["prompt"].nunique() == len(PROMPTS) * 3 // 4
