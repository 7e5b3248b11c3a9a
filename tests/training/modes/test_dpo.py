"""Truth: pairs enumerated by hand; what a trainer is given."""

import pandas as pd
import pytest

from mapft.config import TrainerConfig
from mapft.palette import ScoreMatrix
from mapft.training.modes.dpo import DPO, preferences
from mapft.utils.errors import UserError
from tests.configs import make_config


@pytest.fixture
def pilot():
    """Six samples of two prompts: ids 10 and 20, and 1 to 6."""
    samples = pd.DataFrame({"prompt_id": [0, 0, 0, 1, 1, 1]})
    samples["prompt_token_ids"] = [[10]] * 3 + [[10, 20]] * 3
    samples["response_token_ids"] = [[1], [2, 0], [3], [4], [5], [6]]
    scores = [[1.0, 5.0], [2.0, 0.0], [2.0, 0.0], [3.0, 1.0], [1.0, 9.0], [1.0, 0.0]]
    return samples, ScoreMatrix(scores, ["a", "b"], [0, 0, 0, 1, 1, 1])


def test_preferences_follow_lam_r_within_a_prompt(pilot):
    rows = preferences(*pilot, {"a": 1.0, "b": 0.0}, 200, seed=0)
    assert len(rows) == 200
    pairs = {(*row["prompt_ids"], 0, *row["chosen_ids"], 0, *row["rejected_ids"]) for row in rows}
    assert pairs == {(10, 0, 2, 0, 0, 1), (10, 0, 3, 0, 1), (10, 20, 0, 4, 0, 5), (10, 20, 0, 4, 0, 6)}
    assert preferences(*pilot, {"a": 1.0, "b": 0.0}, 200, seed=0).to_list() == rows.to_list()


def test_equal_scores_give_no_preferences(pilot):
    with pytest.raises(UserError, match="No pilot prompt has two samples with different lam.r"):
        preferences(*pilot, {"a": 0.0, "b": 0.0}, 4, seed=0)


def test_groups_of_rollouts_are_no_matter():
    trainer = TrainerConfig(num_generations=1, replay_batch=64)
    assert make_config(mode=DPO(name="dpo"), trainer=trainer).trainer == trainer
    with pytest.raises(UserError, match="trainer.num_generations=1 does not work with trainer.replay_batch=64"):
        make_config(trainer=trainer)
