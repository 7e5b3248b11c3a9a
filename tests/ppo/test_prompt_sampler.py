"""Truth: hand arithmetic."""

import numpy as np
import pytest

from mapft.ppo.prompt_sampler import PromptSampler
from tests.ppo import tabular
from tests.ppo.trainers import make_trainer


@pytest.mark.parametrize("num_generations", [1, 3])
def test_every_iteration_gets_fresh_prompts_in_groups(num_generations):
    """Hand arithmetic: 5 prompts, 2 per iteration, repeated 4 times; 5 iterations are 2 shuffled epochs."""
    settings = {"prompts": 5, "per_iteration": 2, "repeats": 4, "iterations": 5, "seed": 0}
    sampler = PromptSampler(num_generations=num_generations, **settings)
    rows = np.array(list(sampler)).reshape(5, 4, 2, num_generations)
    assert len(sampler) == rows.size
    assert (rows == rows[:, :1, :, :1]).all()
    prompts = rows[:, 0, :, 0].ravel().tolist()
    assert sorted(prompts[:5]) == sorted(prompts[5:]) == [0, 1, 2, 3, 4]
    assert prompts[:5] != prompts[5:]


def test_a_checkpoint_of_other_iterations_continues_in_the_stream():
    """Iterations of 2 prompts, of which one is done that used 4, as with twice as many processes before."""
    settings = {"prompts": 5, "per_iteration": 2, "num_generations": 1, "repeats": 1, "seed": 0}
    stream = list(PromptSampler(iterations=5, **settings))
    assert list(PromptSampler(iterations=4, done=1, used=4, **settings))[2:] == stream[4:10]


def test_responses_to_one_prompt_come_in_groups(tmp_path):
    sampler = make_trainer(tmp_path, [tabular.TableReward(None)], num_generations=4).prompt_sampler()
    assert (np.array(list(sampler)).reshape(-1, 4).std(axis=1) == 0).all()
