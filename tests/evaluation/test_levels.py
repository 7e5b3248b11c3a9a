"""Truth: hand arithmetic, and the coverage of a planted mean."""

from math import erf

import numpy as np
import pandas as pd
import pytest

from mapft.config import EvaluationConfig
from mapft.evaluation.levels import describe, mean_over_prompts, resampled, summarize, win_rate
from mapft.palette import Palette, ScoreMatrix, solve_dual
from tests.evaluation.results import responses


def test_prompts_have_equal_weight_whatever_their_number_of_responses():
    """The bootstrap interval of two prompts is [1, 5], and t_1 / z * sqrt(2) = 9.17 widens it."""
    estimate = mean_over_prompts(np.array([1.0, 1.0, 1.0, 5.0]), np.array([0, 0, 0, 1]), EvaluationConfig())
    assert estimate.mean == pytest.approx(3.0)
    assert (estimate.low, estimate.high) == pytest.approx((3 - 2 * 9.168, 3 + 2 * 9.168), abs=0.01)


@pytest.mark.parametrize("prompts", [3, 6, 24])
def test_intervals_of_few_prompts_have_their_coverage(prompts):
    rng = np.random.default_rng(0)
    estimates = [resampled(rng.normal(size=prompts), EvaluationConfig(bootstrap=400), seed) for seed in range(400)]
    assert 0.90 <= np.mean([estimate.low <= 0 <= estimate.high for estimate in estimates]) <= 0.99


def test_interval_covers_a_planted_mean():
    """Responses to a prompt share half of their variance; 95 % intervals cover in 92-98 % of 400 worlds."""
    rng = np.random.default_rng(0)
    settings, ids = EvaluationConfig(bootstrap=400), np.repeat(np.arange(100), 4)
    covered = 0
    for seed in range(400):
        numbers = rng.normal(size=100)[ids] + rng.normal(size=400)
        estimate = mean_over_prompts(numbers, ids, settings, seed)
        covered += estimate.low <= 0 <= estimate.high
    assert 0.92 <= covered / 400 <= 0.98


def test_gaps_are_in_sd_of_the_pilot_and_free_values_have_none():
    pilot = ScoreMatrix([[0.0, 1.0], [2.0, 3.0]] * 2, ["a", "b"], [0, 0, 1, 1])
    solution = solve_dual(pilot, Palette({"a": 1.5}))
    tuned = responses([0, 1], a=[1.2, 1.6], b=[5.0, 5.0], kl=[0.1, 0.3])
    base = responses([0, 1], a=[1.0, 1.0], b=[2.0, 2.0])
    settings = EvaluationConfig(tolerance_sd=0.05)
    values, policies = summarize({"base": base, "tuned": tuned}, solution, pilot.sd, settings, seed=0)
    assert values["a"].gap_sd == pytest.approx((1.4 - 1.5) / 1.0)
    assert values["a"].met is False
    assert values["b"].target is values["b"].met is None
    assert policies["tuned"].kl.mean == pytest.approx(0.2)
    assert list(policies) == ["base", "tuned"]


def test_describe_by_hand():
    """Wins over all pairs of a prompt: (3>1, 3>2, 1=1, 1<2) = 2.5 of 4, then (5>0) = 1 of 1."""
    base = responses([0, 0, 1], a=[1.0, 2.0, 0.0])
    policy = responses(
        [0, 0, 1],
        a=[3.0, 1.0, 5.0],
        kl=[0.1, 0.3, 0.6],
        tokens=[2, 4, 9],
        response=["x y x y", "one two three", ""],
        finished=[True, True, False],
    )
    result = describe(policy, base, ["a"], EvaluationConfig(), 0)
    assert result.win_rate["a"].mean == pytest.approx((2.5 / 4 + 1) / 2)
    assert result.levels["a"].mean == pytest.approx((2 + 5) / 2)
    assert result.kl.mean == pytest.approx((0.2 + 0.6) / 2)
    assert result.tokens.mean == pytest.approx((3 + 9) / 2)
    assert result.distinct_2.mean == pytest.approx(((2 / 3 + 1) / 2 + 0) / 2)
    assert result.truncated.mean == pytest.approx(0.5)
    own = describe(base, base, ["a"], EvaluationConfig(), 0)
    assert own.win_rate["a"].mean == own.win_rate["a"].low == 0.5


def test_intervals_of_win_rates_cover_a_planted_truth():
    """Scores are prompt effect + noise, the policy's .5 higher: it wins with probability Phi(.5 / sqrt 2)."""
    rng = np.random.default_rng(1)
    settings, ids = EvaluationConfig(bootstrap=400), np.repeat(np.arange(80), 3)
    truth, covered = 0.5 * (1 + erf(0.5 / 2)), 0
    for seed in range(400):
        prompt = rng.normal(size=80)[ids]
        base = pd.DataFrame({"prompt_id": ids, "a": prompt + rng.normal(size=240)})
        policy = pd.DataFrame({"prompt_id": ids, "a": prompt + 0.5 + rng.normal(size=240)})
        estimate = win_rate(policy, base, "a", settings, seed)
        covered += estimate.low <= truth <= estimate.high
    assert 0.92 <= covered / 400 <= 0.98
