"""Truth: the schedule by hand; an uninterrupted run; a policy whose level is a known function of lam."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from mapft.config import RefineConfig
from mapft.palette import Palette, ScoreMatrix, solve_dual
from mapft.rewards.loader import RewardModels
from mapft.training.refinement import RefinedLambda, read_history
from mapft.training.reward import PaletteReward
from tests.rewards.fixed import Fixed

STEPS = 4  # per iteration
ITERATIONS = 20
PROMPTS = [f"prompt {n}" for n in range(250) for _ in range(2)]
BASE = np.random.default_rng(0).standard_normal(500)


def pilot(target=0.5):
    matrix = ScoreMatrix(BASE[:, None], ["a"], np.arange(500))
    return solve_dual(matrix, Palette({"a": target}), estimator="pooled"), matrix.sd


def refined_lambda(path, target=0.5, **settings):
    solution, sd = pilot(target)
    settings = {"every": 4} | settings
    return RefinedLambda(solution.lam, {"a": 0.0}, solution.targets, sd, RefineConfig(**settings), path, STEPS)


def train(lam, first=0, last=ITERATIONS, reach=0.8, lag=0.0):
    """Rollouts with scores N(level, 1), where level moves to reach * lam by a share 1 - lag per iteration.

    p0 is N(0, 1), so log pi/p0 = level * r - level^2 / 2, and the solution is lam = target.
    """
    used, level = [], 0.0
    for iteration in range(first, last):
        state = SimpleNamespace(global_step=iteration * STEPS, max_steps=ITERATIONS * STEPS, is_world_process_zero=True)
        level = lag * level + (1 - lag) * reach * lam.lam["a"]
        scores = level + np.random.default_rng(iteration).standard_normal(500)
        used.append(lam.observe(state, PROMPTS, {"a": scores}, level * scores - level**2 / 2)["a"])
    return used


def changes(used):
    return [n for n in range(1, len(used)) if used[n] != used[n - 1]]


@pytest.mark.parametrize("reach", [0.0, 0.5, 1.0])
def test_lam_becomes_the_solution_however_far_the_policy_has_come(tmp_path, reach):
    """A policy that stays at p0, one that goes half of the way, and one that follows lam."""
    lam = refined_lambda(tmp_path / "refinement.json", every=1)
    lam.start["a"] = 0.7
    train(lam, reach=reach)
    error = lam.history[-2]["standard_error"]["a"]  # the last window is not refined on
    assert 0 < error < 0.05
    assert lam.lam["a"] == pytest.approx(0.5, abs=2.5 * error)
    assert lam.history[-2]["ess"] == pytest.approx(1 if reach == 1 else np.exp(-((0.5 * (1 - reach)) ** 2)), abs=0.05)


def test_a_frozen_policy_does_not_wind_lam_up(tmp_path):
    """20 windows of rollouts of p0, whose level misses the target in all of them."""
    lam = refined_lambda(tmp_path / "refinement.json", every=1)
    lam.start["a"] = 0.5  # the solution, so that only the rollouts have an error
    train(lam, reach=0.0)
    assert len(lam.history) == 20
    errors = np.array([(window["lam"]["a"] - 0.5) / window["standard_error"]["a"] for window in lam.history[:-1]])
    assert abs(errors).max() < 3
    assert abs(errors[-1]) < 2


def test_windows_are_counted_in_rollouts_not_in_steps(tmp_path):
    """3 iterations of warm start before the first rollout: windows of 4 rollouts all the same."""
    lam = refined_lambda(tmp_path / "refinement.json")
    train(lam, first=3, last=15)
    assert [window["step"] for window in lam.history] == [24, 40, 56]
    assert [window["rollouts"] for window in lam.history] == [2000, 2000, 4000]


def test_lam_moves_only_by_more_than_its_standard_error(tmp_path):
    lam = refined_lambda(tmp_path / "refinement.json", every=1)
    train(lam)
    before = lam.start["a"]
    for window in lam.history[:-1]:
        moved = abs(window["lam"]["a"] - before)
        assert moved == 0 or moved > window["standard_error"]["a"]
        before = window["lam"]["a"]


def test_rollouts_of_prompts_that_occur_once_are_left_out(tmp_path):
    lam = refined_lambda(tmp_path / "refinement.json", every=1)
    state = SimpleNamespace(global_step=0, max_steps=100, is_world_process_zero=True)
    lam.observe(state, [f"{n}" for n in range(500)], {"a": BASE}, np.zeros(500))
    assert "standard_error" not in lam.history[0]
    assert lam.lam == lam.start
    lam.observe(state, [*PROMPTS, "once"], {"a": np.append(BASE, 1e6)}, np.zeros(501))
    assert lam.lam["a"] == pytest.approx(0.5, abs=0.2)


def test_lam_is_refined_after_the_start_and_not_at_the_end(tmp_path):
    lam = refined_lambda(tmp_path / "refinement.json", start=0.5)
    train(lam)
    assert [window["step"] for window in read_history(tmp_path / "refinement.json")] == [12, 28, 44, 60, 76]
    assert ["ess" in window for window in lam.history] == [False, False, True, True, False]


def test_compensation_meets_the_target_although_the_policy_does_not_reach_p_lam(tmp_path):
    lam = refined_lambda(tmp_path / "refinement.json", compensate=True)
    short = 0.5 - 0.8 * pilot()[0].lam["a"]
    used = train(lam)
    assert short > 0.07
    assert 0.8 * lam.lam["a"] == pytest.approx(0.5, abs=0.05)  # 2000 rollouts: standard error .022
    assert changes(used)[0] == 7  # the first window, iterations 0 to 3, has nothing to compare with
    assert set(changes(used)) <= {7, 11, 15}


def test_no_compensation_while_the_violation_shrinks(tmp_path):
    """The policy reaches the target with this lam, 12 % of the rest per iteration: a step would overshoot."""
    lam = refined_lambda(tmp_path / "refinement.json", compensate=True)
    lam.start["a"] = 0.5
    assert changes(train(lam, reach=1.0, lag=0.88)) == []
    assert lam.history[0]["violation_sd"] > 0.2


def test_no_compensation_within_the_tolerance(tmp_path):
    lam = refined_lambda(tmp_path / "refinement.json", compensate=True, tolerance=10.0)
    assert changes(train(lam)) == []


def test_no_refinement_without_every(tmp_path):
    assert changes(train(refined_lambda(tmp_path / "refinement.json", every=None))) == []
    assert not (tmp_path / "refinement.json").exists()


def test_scores_are_matched_by_name(tmp_path):
    """Scores in another order than the multipliers."""
    matrix = ScoreMatrix(np.stack([BASE, -BASE], axis=1), ["a", "b"], np.arange(500))
    solution = solve_dual(matrix, Palette({"a": 0.2}), estimator="pooled")
    settings, path = RefineConfig(every=1), tmp_path / "refinement.json"
    lam = RefinedLambda(solution.lam, {"a": 0.0, "b": 0.0}, solution.targets, matrix.sd, settings, path, STEPS)
    state = SimpleNamespace(global_step=0, max_steps=100, is_world_process_zero=True)
    lam.observe(state, PROMPTS, {"b": np.full(500, 9.0), "a": np.full(500, 0.2) + 0 * BASE}, np.zeros(500))
    assert lam.history[0]["gap_sd"]["a"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("cut", [12, 14])
def test_a_resumed_run_repeats_the_rest_of_the_history(tmp_path, cut):
    """Killed after iteration 18; the checkpoint is between two windows, or within one."""
    whole = train(refined_lambda(tmp_path / "whole.json"))
    killed = refined_lambda(tmp_path / "cut.json")
    train(killed, last=cut)
    state = SimpleNamespace(global_step=cut * STEPS, is_world_process_zero=True)
    (tmp_path / f"checkpoint-{cut * STEPS}").mkdir()
    killed.on_save(SimpleNamespace(output_dir=str(tmp_path)), state, None)
    train(killed, first=cut, last=18)
    again = refined_lambda(tmp_path / "cut.json")
    again.load(tmp_path / f"checkpoint-{cut * STEPS}")
    assert train(again, first=cut) == whole[cut:]
    assert json.loads((tmp_path / "cut.json").read_text()) == json.loads((tmp_path / "whole.json").read_text())


def test_rollouts_are_rewarded_with_the_lam_that_was_refined_on_them():
    logged = {}
    observed = []

    def observe(state, prompts, scores, log_ratio):
        observed.append((state, list(prompts), {name: column.tolist() for name, column in scores.items()}, log_ratio))
        return {"a": 5.0}

    reward = PaletteReward(RewardModels({"a": Fixed(1.0, 3.0)}), {"a": 2.0}, 1.0, observe)
    assert reward(["p", "q"], ["x", "y"], logged.__setitem__, trainer_state="now", log_ratio=[0.1, 0.2]) == [5.0, 15.0]
    assert observed == [("now", ["p", "q"], {"a": [1.0, 3.0]}, [0.1, 0.2])]
    assert logged["map/lam/a"] == 5.0
