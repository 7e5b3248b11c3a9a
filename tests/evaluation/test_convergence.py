"""KL to p_lam and price ratio. Truth: policies over 6 responses whose KL, levels and least KL are sums."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import xlogy

from mapft.config import EvaluationConfig
from mapft.evaluation.convergence import kl_to_target, price_ratio
from mapft.palette import Palette, ScoreMatrix, solve_dual

SETTINGS = EvaluationConfig(bootstrap=200)
LAM = {"a": 0.8, "b": 0.5}
SCORES_YV = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [2.0, -1.0], [-1.0, 2.0]])
P0_Y = np.array([0.3, 0.2, 0.2, 0.1, 0.1, 0.1])
PROMPTS = 4000


def tilted(lam_V) -> np.ndarray:
    weight_Y = P0_Y * np.exp(SCORES_YV @ np.asarray(lam_V))
    return weight_Y / weight_Y.sum()


def kl(p_Y, q_Y) -> float:
    return float((xlogy(p_Y, p_Y) - xlogy(p_Y, q_Y)).sum())


def responses(policy_Y, per_prompt: int = 4, seed: int = 0, prompts: int = PROMPTS) -> pd.DataFrame:
    """Samples; the scores of a prompt have an offset of the prompt, which changes no policy."""
    rng = np.random.default_rng(seed)
    chosen_N = rng.choice(len(P0_Y), size=prompts * per_prompt, p=policy_Y)
    ids_N = np.arange(len(chosen_N)) // per_prompt
    scores_NV = SCORES_YV[chosen_N] + np.sin(ids_N)[:, None]
    table = pd.DataFrame({"prompt_id": ids_N, "a": scores_NV[:, 0], "b": scores_NV[:, 1]})
    return table.assign(kl=np.log(policy_Y[chosen_N] / P0_Y[chosen_N]))


FAR = np.array([0.9, 0.049, 0.05, 0.0005, 0.0003, 0.0002])  # seldom gives the probable responses of p_lam
COLLAPSED = np.array([0.0, 0.5, 0.5, 0.0, 0.0, 0.0])  # never does, so that its own weights look constant
POLICIES = {
    "p_lam": tilted([0.8, 0.5]),
    "half the way": tilted([0.4, 0.25]),
    "p0": P0_Y,
    "another direction": tilted([-0.5, 1.0]),
    "far": FAR,
    "collapsed": COLLAPSED,
}


@pytest.mark.parametrize("name", POLICIES)
def test_kl_to_p_lam(name):
    policy_Y = POLICIES[name]
    found = kl_to_target(responses(P0_Y, seed=1), responses(policy_Y), LAM, SETTINGS, seed=0)
    exact = kl(policy_Y, tilted([0.8, 0.5]))
    assert found.mean == pytest.approx(exact, rel=0.06, abs=0.01)  # `centered` has a bias where u is skewed
    if name == "p_lam":  # every weight is 1: no noise at the optimum
        assert found.high < 1e-9


WASTEFUL = 0.5 * tilted([1.5, 1.5]) + 0.5 * tilted([2.0, -1.0])


def wasteful_ratio(values) -> float:
    """KL of WASTEFUL over the least KL that has its levels, by the dual on exact frequencies."""
    exact_NV = np.repeat(SCORES_YV, (10 * P0_Y).round().astype(int), axis=0)
    matrix = ScoreMatrix(exact_NV, ["a", "b"], np.zeros(len(exact_NV), dtype=int))
    levels = dict(zip(["a", "b"], WASTEFUL @ SCORES_YV, strict=True))
    return kl(WASTEFUL, P0_Y) / solve_dual(matrix, Palette({v: levels[v] for v in values}), estimator="pooled").kl


@pytest.mark.parametrize("lam", [[0.8, 0.5], [1.2, 0.0], [0.2, 0.9]])
def test_the_price_ratio_of_any_p_lam_is_one(lam):
    """Without noise: the exponent is the same number for all responses to a prompt."""
    found = price_ratio(responses(P0_Y, seed=1), responses(tilted(lam)), LAM, ["a", "b"], SETTINGS, seed=0)
    assert found.mean == pytest.approx(1, abs=0.03)
    if min(lam) > 0.4:  # else the other level is slack: noise
        assert found.high - found.low < 1e-9


@pytest.mark.parametrize("values", [["a", "b"], ["a"]])
def test_the_price_ratio_of_a_policy_that_moves_more_than_its_levels_need(values):
    found = price_ratio(responses(P0_Y, seed=1), responses(WASTEFUL), LAM, values, SETTINGS, seed=0)
    assert found.mean == pytest.approx(wasteful_ratio(values), rel=0.06)
    assert found.low < wasteful_ratio(values) < found.high


def test_numbers_that_do_not_exist_are_none():
    base, tuned = responses(P0_Y, seed=1, prompts=50), responses(tilted([0.8, 0.5]), prompts=50)
    single = tuned.drop_duplicates("prompt_id")
    assert kl_to_target(base, single, LAM, SETTINGS, seed=0) is None
    assert price_ratio(base.drop_duplicates("prompt_id"), tuned, LAM, ["a"], SETTINGS, seed=0) is None
    assert price_ratio(base, single, LAM, ["a"], SETTINGS, seed=0) is None
    assert price_ratio(base, tuned, LAM, [], SETTINGS, seed=0) is None
    lower = responses(tilted([-0.8, 0.0]), prompts=50)
    assert price_ratio(base, lower, LAM, ["a"], SETTINGS, seed=0) is None
    collapsed = responses(COLLAPSED, prompts=50)  # the least KL is that of re-weighted base responses
    beyond = collapsed.assign(a=collapsed["a"] + 100)
    assert price_ratio(base, beyond, LAM, ["a"], SETTINGS, seed=0) is None
    constant = base.assign(a=1.0)
    assert price_ratio(constant, collapsed.assign(a=2.0), LAM, ["a", "b"], SETTINGS, seed=0) is None
    assert price_ratio(constant, collapsed.assign(a=1.0), LAM, ["a", "b"], SETTINGS, seed=0) is not None


def test_the_interval_covers():
    """About 95 of 100 intervals contain the exact numbers."""
    policy_Y = tilted([0.4, 0.25])
    exact = kl(policy_Y, tilted([0.8, 0.5]))
    covered = [0, 0]
    for seed in range(60):
        base, tuned = responses(P0_Y, 4, 1000 + seed, 150), responses(policy_Y, 4, seed, 150)
        interval = kl_to_target(base, tuned, LAM, SETTINGS, seed)
        covered[0] += interval.low <= exact <= interval.high
        interval = price_ratio(base, responses(WASTEFUL, 4, seed, 150), LAM, ["a", "b"], SETTINGS, seed)
        covered[1] += interval is not None and interval.low <= wasteful_ratio(["a", "b"]) <= interval.high
    assert min(covered) >= 52, covered
