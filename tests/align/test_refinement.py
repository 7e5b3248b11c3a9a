"""Truth: what the settings say about when lam changes; an uninterrupted run; scores that answer to lam exactly."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from mapft.align.refinement import RefinedLambda, read_history
from mapft.align.reward import PaletteReward
from mapft.config import RefineConfig
from mapft.palette import Palette, RewardMatrix, solve_dual

STEPS = 4  # per iteration
ITERATIONS = 20
PROMPTS = [f"prompt {n}" for n in range(500)]
BASE = np.random.default_rng(0).standard_normal(500)


def pilot(target=0.5):
    matrix = RewardMatrix(BASE[:, None], ["a"], np.arange(500))
    return solve_dual(matrix, Palette({"a": target}), estimator="pooled"), matrix.sd


def refined_lambda(path, target=0.5, **settings):
    solution, sd = pilot(target)
    settings = {"every": 4, "start": 0.25, "tolerance": 0.02} | settings
    return RefinedLambda(solution, sd, RefineConfig(**settings), path, STEPS, writes=True)


def train(lam, first=0, last=ITERATIONS, reach=0.8):
    """A policy of Gaussian scores that moves only `reach` of the way to p_lam: level = reach * lam, sd 1."""
    used = []
    for iteration in range(first, last):
        state = SimpleNamespace(global_step=iteration * STEPS, max_steps=ITERATIONS * STEPS)
        scores = reach * lam.lam["a"] + np.random.default_rng(iteration).standard_normal((500, 1))
        used.append(lam.observe(state, PROMPTS, scores)["a"])
    return used


def test_lam_is_refined_every_few_iterations_after_the_start_and_not_at_the_end(tmp_path):
    used = train(refined_lambda(tmp_path / "refinement.json"))
    changes = [n for n in range(1, ITERATIONS) if used[n] != used[n - 1]]
    assert set(changes) <= {7, 11, 15}  # iterations 8, 12, 16 of 20; 4 is before the start, 20 the last
    assert 7 in changes
    assert [record["step"] for record in read_history(tmp_path / "refinement.json")] == [28, 44, 60]


def test_the_level_is_met_although_the_policy_falls_short_of_p_lam(tmp_path):
    lam = refined_lambda(tmp_path / "refinement.json")
    short = 0.5 - 0.8 * pilot()[0].lam["a"]
    train(lam)
    assert short > 0.07
    assert 0.8 * lam.lam["a"] == pytest.approx(0.5, abs=0.05)  # 2000 rollouts: standard error .022


def test_kept_targets_are_left_alone(tmp_path):
    lam = refined_lambda(tmp_path / "refinement.json", tolerance=10.0)
    assert len(set(train(lam))) == 1
    assert all(record["delta"] == {"a": 0.0} for record in lam.history)


def test_no_refinement_without_every(tmp_path):
    assert len(set(train(refined_lambda(tmp_path / "refinement.json", every=None)))) == 1
    assert not (tmp_path / "refinement.json").exists()


def test_a_resumed_run_repeats_the_rest_of_the_history(tmp_path):
    whole = train(refined_lambda(tmp_path / "whole.json"))
    train(refined_lambda(tmp_path / "cut.json"), last=18)  # killed after the refinement of iteration 16
    again = refined_lambda(tmp_path / "cut.json")
    again.resume(12 * STEPS)
    assert train(again, first=12) == whole[12:]
    assert json.loads((tmp_path / "cut.json").read_text()) == json.loads((tmp_path / "whole.json").read_text())


def test_a_run_that_starts_over_forgets_the_history(tmp_path):
    train(refined_lambda(tmp_path / "refinement.json"))
    again = refined_lambda(tmp_path / "refinement.json")
    again.resume(0)
    assert again.lam == pilot()[0].lam


def test_the_rollouts_that_refine_lam_are_rewarded_with_it():
    logged = {}
    scorer = SimpleNamespace(score=lambda prompts, responses: np.array([1.0, 3.0]))
    seen = []

    def observe(state, prompts, scores):
        seen.append((state, list(prompts), scores.tolist()))
        return {"a": 5.0}

    reward = PaletteReward({"a": scorer}, {"a": 2.0}, 1.0, observe)
    assert reward(["p", "q"], ["x", "y"], logged.__setitem__, trainer_state="now") == [5.0, 15.0]
    assert seen == [("now", ["p", "q"], [[1.0], [3.0]])]
    assert logged["map/lam/a"] == 5.0
