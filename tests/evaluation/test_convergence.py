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


def test_price_ratio():
    """1 for every p_lam, whatever lam is; more for a policy that also moves what has no target."""
    base = responses(P0_Y, seed=1)
    for lam in ([0.8, 0.5], [1.2, 0.0], [0.2, 0.9]):
        found = price_ratio(base, responses(tilted(lam)), ["a", "b"], SETTINGS, seed=0)
        assert found.mean == pytest.approx(1, abs=0.06)
        assert found.low <= 1.02
        assert found.high >= 0.98
    exact_NV = np.repeat(SCORES_YV, (10 * P0_Y).round().astype(int), axis=0)
    matrix = ScoreMatrix(exact_NV, ["a", "b"], np.zeros(len(exact_NV), dtype=int))
    wasteful_Y = 0.5 * tilted([1.5, 1.5]) + 0.5 * tilted([2.0, -1.0])
    for values in (["a", "b"], ["a"]):
        levels = dict(zip(["a", "b"], wasteful_Y @ SCORES_YV, strict=True))
        least = solve_dual(matrix, Palette({name: levels[name] for name in values}), estimator="pooled").kl
        found = price_ratio(base, responses(wasteful_Y), values, SETTINGS, seed=0)
        assert found.mean == pytest.approx(kl(wasteful_Y, P0_Y) / least, rel=0.06)
        assert found.low < kl(wasteful_Y, P0_Y) / least < found.high


def test_numbers_that_do_not_exist_are_none():
    base, tuned = responses(P0_Y, seed=1, prompts=50), responses(tilted([0.8, 0.5]), prompts=50)
    single = tuned.drop_duplicates("prompt_id")
    assert kl_to_target(base, single, LAM, SETTINGS, seed=0) is None
    assert price_ratio(base.drop_duplicates("prompt_id"), tuned, ["a"], SETTINGS, seed=0) is None
    assert price_ratio(base, tuned, [], SETTINGS, seed=0) is None
    beyond = tuned.assign(a=tuned["a"] + 100)
    assert price_ratio(base, beyond, ["a"], SETTINGS, seed=0) is None
    below = tuned.assign(a=tuned["a"] - 100)
    assert price_ratio(base, below, ["a"], SETTINGS, seed=0) is None
    constant, more_b = base.assign(a=1.0), responses(tilted([0.0, 0.9]), prompts=50)
    assert price_ratio(constant, more_b.assign(a=2.0), ["a", "b"], SETTINGS, seed=0) is None
    assert price_ratio(constant, more_b.assign(a=1.0), ["a", "b"], SETTINGS, seed=0) is not None


def test_the_interval_covers():
    """About 95 of 100 intervals contain the exact numbers."""
    policy_Y = tilted([0.4, 0.25])
    exact = kl(policy_Y, tilted([0.8, 0.5]))
    covered = [0, 0]
    for seed in range(60):
        base, tuned = responses(P0_Y, 4, 1000 + seed, 150), responses(policy_Y, 4, seed, 150)
        interval = kl_to_target(base, tuned, LAM, SETTINGS, seed)
        covered[0] += interval.low <= exact <= interval.high
        interval = price_ratio(base, tuned, ["a", "b"], SETTINGS, seed)
        covered[1] += interval is not None and interval.low <= 1 <= interval.high
    assert min(covered) >= 52, covered
