"""Truth: pairs enumerated by hand."""

import pandas as pd
import pytest

from mapft.palette import ScoreMatrix
from mapft.training.modes.dpo import preferences
from mapft.utils.errors import UserError

PROMPTS = ["p0", "p1"]


@pytest.fixture
def pilot():
    """Six samples of two prompts; f, of the second, was truncated: TRL would append an EOS that was not sampled."""
    samples = pd.DataFrame({"prompt_id": [0, 0, 0, 1, 1, 1], "response": list("abcdef")})
    samples["finished"] = [True] * 5 + [False]
    scores = [[1.0, 5.0], [2.0, 0.0], [2.0, 0.0], [3.0, 1.0], [1.0, 9.0], [9.0, 0.0]]
    return samples, ScoreMatrix(scores, ["a", "b"], [0, 0, 0, 1, 1, 1])


def test_preferences_follow_lam_r_within_a_prompt(pilot):
    samples, matrix = pilot
    rows = preferences(PROMPTS, samples, matrix, {"a": 1.0, "b": 0.0}, 200, seed=0)
    assert len(rows) == 200
    pairs = {(row["prompt"], row["chosen"], row["rejected"]) for row in rows}
    assert pairs == {("p0", "b", "a"), ("p0", "c", "a"), ("p1", "d", "e")}
    again = preferences(PROMPTS, samples, matrix, {"a": 1.0, "b": 0.0}, 200, seed=0)
    assert again.to_list() == rows.to_list()


def test_truncated_samples_are_used_where_no_prompt_has_two_others(pilot):
    samples, matrix = pilot
    rows = preferences(PROMPTS, samples.assign(finished=False), matrix, {"a": 1.0, "b": 0.0}, 200, seed=0)
    assert "f" in set(rows["chosen"])


def test_responses_to_messages_are_messages(pilot):
    samples, matrix = pilot
    chat = [[{"role": "user", "content": text}] for text in PROMPTS]
    texts = preferences(PROMPTS, samples, matrix, {"a": 1.0, "b": 0.0}, 4, seed=0)
    row = preferences(chat, samples, matrix, {"a": 1.0, "b": 0.0}, 4, seed=0)[0]
    assert row["chosen"] == [{"role": "assistant", "content": texts[0]["chosen"]}]


def test_equal_scores_give_no_preferences(pilot):
    samples, matrix = pilot
    with pytest.raises(UserError, match="No pilot prompt has two samples with different lam.r"):
        preferences(PROMPTS, samples, matrix, {"a": 0.0, "b": 0.0}, 4, seed=0)
