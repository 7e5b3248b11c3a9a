"""Truth: hand arithmetic, and the coverage of a planted mean."""

from io import StringIO
from math import erf

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from mapft.config import EvaluationConfig
from mapft.evaluation.realized import describe, mean_over_prompts, resampled, summarize, win_rate
from mapft.evaluation.report import closing_table
from mapft.palette import Palette, RewardMatrix, solve_dual


def test_prompts_weigh_alike_whatever_their_number_of_responses():
    """The bootstrap of two prompts reaches from one to the other, and t_1 / z * sqrt 2 = 9.17 widens it."""
    estimate = mean_over_prompts(np.array([1.0, 1.0, 1.0, 5.0]), np.array([0, 0, 0, 1]), EvaluationConfig())
    assert estimate.mean == pytest.approx(3.0)
    assert (estimate.low, estimate.high) == pytest.approx((3 - 2 * 9.168, 3 + 2 * 9.168), abs=0.01)


@pytest.mark.parametrize("prompts", [3, 6, 24])
def test_intervals_of_few_prompts_cover_too(prompts):
    rng = np.random.default_rng(0)
    found = [resampled(rng.normal(size=prompts), EvaluationConfig(bootstrap=400), seed) for seed in range(400)]
    assert 0.90 <= np.mean([each.low <= 0 <= each.high for each in found]) <= 0.99


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


def responses(prompt_ids, **columns) -> pd.DataFrame:
    """A table of responses as evaluation makes it; what is not given is plain."""
    rows = len(prompt_ids)
    plain = {"prompt": [f"prompt {i}" for i in prompt_ids], "response": ["a b a b"] * rows, "tokens": [4] * rows}
    plain |= {"finished": [True] * rows, "kl": [0.0] * rows}
    return pd.DataFrame({"prompt_id": prompt_ids, **plain, **columns})


def test_summary_gives_gaps_in_sd_of_the_pilot_and_judges_targets_alone():
    pilot = RewardMatrix([[0.0, 1.0], [2.0, 3.0]] * 2, ["a", "b"], [0, 0, 1, 1])
    solution = solve_dual(pilot, Palette({"a": 1.5}))
    tuned = responses([0, 1], a=[1.2, 1.6], b=[5.0, 5.0], kl=[0.1, 0.3])
    base = responses([0, 1], a=[1.0, 1.0], b=[2.0, 2.0])
    settings = EvaluationConfig(tolerance_sd=0.05)
    summary = summarize({"base": base, "tuned": tuned}, solution, pilot.sd, settings, seed=0)
    assert summary["values"]["a"]["gap_sd"] == pytest.approx((1.4 - 1.5) / 1.0)
    assert summary["values"]["a"]["met"] is False
    assert summary["values"]["b"]["target"] is summary["values"]["b"]["met"] is None
    assert summary["kl"]["mean"] == pytest.approx(0.2)
    assert summary["kl_predicted"] == solution.kl
    assert list(summary["policies"]) == ["base", "tuned"]


def test_a_policy_in_numbers():
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
    found = describe(policy, base, ["a"], EvaluationConfig(), 0)
    assert found["win_rate"]["a"]["mean"] == pytest.approx((2.5 / 4 + 1) / 2)
    assert found["levels"]["a"]["mean"] == pytest.approx((2 + 5) / 2)
    assert found["kl"]["mean"] == pytest.approx((0.2 + 0.6) / 2)
    assert found["tokens"]["mean"] == pytest.approx((3 + 9) / 2)
    assert found["distinct_2"]["mean"] == pytest.approx(((2 / 3 + 1) / 2 + 0) / 2)
    assert found["truncated"]["mean"] == pytest.approx(0.5)
    own = describe(base, base, ["a"], EvaluationConfig(), 0)
    assert own["win_rate"]["a"]["mean"] == own["win_rate"]["a"]["low"] == 0.5


def test_intervals_of_win_rates_cover_a_planted_truth():
    """Scores are prompt effect + noise, the policy's .5 higher: it wins with probability Phi(.5 / sqrt 2)."""
    rng = np.random.default_rng(1)
    settings, ids = EvaluationConfig(bootstrap=400), np.repeat(np.arange(80), 3)
    truth, covered = 0.5 * (1 + erf(0.5 / 2)), 0
    for seed in range(400):
        prompt = rng.normal(size=80)[ids]
        base = pd.DataFrame({"prompt_id": ids, "a": prompt + rng.normal(size=240)})
        policy = pd.DataFrame({"prompt_id": ids, "a": prompt + 0.5 + rng.normal(size=240)})
        found = win_rate(policy, base, "a", settings, seed)
        covered += found.low <= truth <= found.high
    assert 0.92 <= covered / 400 <= 0.98


def test_the_closing_table_shows_the_lambda_that_training_ended_with():
    row = {"base": 0.0, "target": 1.5, "lam": 0.5, "predicted": 1.5, "gap_sd": -0.02, "met": True}
    row |= {"realized": {"mean": 1.48, "low": 1.4, "high": 1.6}, "sd": 1.0}
    summary = {
        "values": {"a": row},
        "lam": {"a": 0.625},
        "mode": "sequential",
        "confidence": 0.9,
        "tolerance_sd": 0.1,
        "prompts": 7,
    }
    console = Console(record=True, width=80, file=StringIO())
    console.print(closing_table(summary))
    line = next(line for line in console.export_text().splitlines() if "1.480" in line)
    assert line.split() == ["a", "0.000", "1.500", "0.500→0.625", "1.500", "1.480", "±", "0.120", "-0.020", "yes"]


def test_a_baseline_has_no_predicted_levels():
    row = {"base": 0.0, "target": 1.5, "lam": 0.5, "predicted": 1.25, "gap_sd": -0.02, "met": True}
    row |= {"realized": {"mean": 1.48, "low": 1.4, "high": 1.6}, "sd": 1.0}
    summary = {"values": {"a": row}, "lam": None, "mode": "dpo", "confidence": 0.9, "tolerance_sd": 0.1, "prompts": 7}
    console = Console(record=True, width=80, file=StringIO())
    console.print(closing_table(summary))
    line = next(line for line in console.export_text().splitlines() if "1.480" in line)
    assert line.split() == ["a", "0.000", "1.500", "1.480", "±", "0.120", "-0.020", "yes"]


def test_long_names_and_numbers_are_folded_never_cut():
    row = {"base": -2.871, "target": -2.871, "lam": 12.759, "predicted": -2.871, "gap_sd": -0.02, "met": True}
    row |= {"realized": {"mean": -2.871, "low": -2.9, "high": -2.8}, "sd": 1.0}
    summary = {"values": {"truthfulness": row}, "lam": {"truthfulness": 0.0042}, "prompts": 7}
    summary |= {"confidence": 0.95, "tolerance_sd": 0.1, "mode": "simultaneous"}
    console = Console(record=True, width=80, file=StringIO())
    console.print(closing_table(summary))
    assert "…" not in console.export_text()
