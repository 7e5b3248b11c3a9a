"""Standard errors, bootstrap intervals, required prompts. Truth: Gaussian worlds in closed form, replication.

In a world with scores mu_x + e, mu_x ~ N(0, rho S), e ~ N(0, (1 - rho) S), the policy p_lam raises the level by
(1 - rho) S lam on every prompt, and its KL is lam' (1 - rho) S lam / 2.
"""

import numpy as np
import pytest

from mapft.palette import (
    ESTIMATORS,
    Palette,
    ScoreMatrix,
    analyse,
    bootstrap,
    solve_dual,
    standard_errors,
)
from mapft.utils.errors import UserError

RHO = 0.3
ROOT_VV = np.array([[1.0, 0.0, 0.0], [0.5, np.sqrt(0.75), 0.0], [0.3, 0.0, np.sqrt(0.91)]])
WITHIN_VV = (1 - RHO) * ROOT_VV @ ROOT_VV.T
TARGETS = {"a": 0.35, "b": 0.30}


def planted(seed, prompts=100, samples=4):
    rng = np.random.default_rng(seed)
    ids_N = np.repeat(np.arange(prompts), samples)
    mu_NV = (rng.normal(size=(prompts, 3)) * np.sqrt(RHO))[ids_N]
    scores_NV = (mu_NV + rng.normal(size=(len(ids_N), 3)) * np.sqrt(1 - RHO)) @ ROOT_VV.T
    return ScoreMatrix(scores_NV, ["a", "b", "free"], ids_N)


@pytest.mark.slow
def test_intervals_have_their_nominal_coverage():
    """Nominal 95 %, 400 replications: lam, the true level of p_lam (free values too), and its true KL."""
    true_lam = dict(zip("ab", np.linalg.solve(WITHIN_VV[:2, :2], list(TARGETS.values())), strict=True))
    covered = dict.fromkeys(("lam a", "lam b", "level a", "level b", "level free", "kl"), 0)
    for seed in range(400):
        matrix = planted(seed)
        solution = solve_dual(matrix, Palette(TARGETS))
        intervals = bootstrap(matrix, solution, replications=200, seed=seed)
        lam_V = np.array(list(solution.lam.values()))
        level = dict(zip(matrix.values, WITHIN_VV @ lam_V, strict=True))
        truths = {f"level {name}": (intervals.predicted[name], level[name]) for name in level}
        truths |= {f"lam {name}": (intervals.lam[name], true_lam[name]) for name in "ab"}
        truths["kl"] = (intervals.kl, lam_V @ WITHIN_VV @ lam_V / 2)
        for name, (interval, truth) in truths.items():
            covered[name] += interval.low <= truth <= interval.high
        assert intervals.failed == 0
    for name, count in covered.items():
        assert 0.92 <= count / 400 <= 0.98, (name, covered)


@pytest.mark.parametrize("estimator", ["centered", "pooled"])
def test_standard_errors_equal_the_spread_over_replications(estimator):
    """1000 pilots of the same world: sd of lam, and of (true - predicted level), against the mean se."""
    share = WITHIN_VV if estimator == "centered" else WITHIN_VV / (1 - RHO)
    lam, error, se_lam, se_level = [], [], [], []
    for seed in range(1000):
        matrix = planted(seed, prompts=80, samples=3)
        solution = solve_dual(matrix, Palette(TARGETS), estimator=estimator)
        errors = standard_errors(matrix, solution)
        lam_V = np.array(list(solution.lam.values()))
        lam.append(lam_V[:2])
        error.append(share @ lam_V - list(solution.predicted.values()))
        se_lam.append(list(errors.lam.values())[:2])
        se_level.append(list(errors.predicted.values()))
    np.testing.assert_allclose(np.sqrt(np.mean(np.square(se_lam), axis=0)), np.std(lam, axis=0), rtol=0.12)
    np.testing.assert_allclose(np.sqrt(np.mean(np.square(se_level), axis=0)), np.std(error, axis=0), rtol=0.12)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_bootstrap_and_delta_method_agree_in_a_large_pilot(estimator):
    matrix = planted(0, prompts=600, samples=6)
    solution = solve_dual(matrix, Palette(TARGETS), estimator=estimator)
    errors, intervals = standard_errors(matrix, solution), bootstrap(matrix, solution, replications=400)
    for name in matrix.values:
        assert intervals.predicted[name].se == pytest.approx(errors.predicted[name], rel=0.15)
    for name in TARGETS:
        assert intervals.lam[name].se == pytest.approx(errors.lam[name], rel=0.15)
    assert errors.lam["free"] == 0.0
    assert analyse(matrix, solution).standard_errors == errors


def test_with_lambda_zero_the_error_is_that_of_a_mean_over_prompts():
    """lam = 0: se = sd of the prompt means / sqrt(P), rows of one prompt counted once."""
    matrix = planted(1)
    solution = solve_dual(matrix, Palette({"a": -5.0}))
    by_hand = matrix.scores.reshape(100, 4, 3).mean(axis=1).std(axis=0) / np.sqrt(100)
    np.testing.assert_allclose(list(standard_errors(matrix, solution).predicted.values()), by_hand, rtol=1e-9)
    intervals = bootstrap(matrix, solution, replications=2000)
    np.testing.assert_allclose([intervals.predicted[name].se for name in matrix.values], by_hand, rtol=0.06)
    assert intervals.lam["a"].high == 0.0


def test_the_same_seed_gives_the_same_intervals():
    matrix = planted(2)
    solution = solve_dual(matrix, Palette(TARGETS))
    assert bootstrap(matrix, solution, replications=20, seed=5) == bootstrap(matrix, solution, replications=20, seed=5)
    assert bootstrap(matrix, solution, replications=20, seed=5) != bootstrap(matrix, solution, replications=20, seed=6)


def test_resamples_on_which_the_palette_is_infeasible_are_counted():
    scores = np.append(np.zeros(39), 1.0)[:, None]
    matrix = ScoreMatrix(scores, ["a"], np.repeat(range(20), 2))
    intervals = bootstrap(matrix, solve_dual(matrix, Palette({"a": 0.2}), estimator="pooled"), replications=200)
    assert 0.25 < intervals.failed / 200 < 0.47  # (19/20)^20 = .36 of the resamples lack the one prompt with a 1


def test_required_prompts_by_hand():
    """With lambda 0 a prompt's mean has the variance rho + (1 - rho) / K: P' = 1.96^2 (.3 + .7 / 4) / .05^2."""
    matrix = planted(3, prompts=20_000, samples=4)
    solution = solve_dual(matrix, Palette({"a": -5.0}))
    prompts = standard_errors(matrix, solution).required_prompts(matrix, solution, 0.05)
    assert prompts == pytest.approx(1.959964**2 * (RHO + (1 - RHO) / 4) / 0.05**2, rel=0.03)


def test_required_prompts_give_the_half_width():
    matrix = planted(4, prompts=5000, samples=4)
    solution = solve_dual(matrix, Palette(TARGETS))
    prompts = standard_errors(matrix, solution).required_prompts(matrix, solution, 0.15)
    widths = []
    for pilot in (planted(seed, prompts=prompts) for seed in range(60)):
        errors = standard_errors(pilot, solve_dual(pilot, Palette(TARGETS))).predicted
        widths.append(max(1.96 * errors[name] / pilot.sd[name] for name in TARGETS))
    assert np.mean(widths) == pytest.approx(0.15, rel=0.1)


def test_invalid_options_are_refused():
    matrix = planted(5)
    solution = solve_dual(matrix, Palette(TARGETS))
    with pytest.raises(UserError, match="level=95"):
        bootstrap(matrix, solution, level=95)
    for half_width, level in ((0, 0.95), (0.1, 95)):
        with pytest.raises(UserError, match=f"half_width={half_width} with level={level}"):
            standard_errors(matrix, solution).required_prompts(matrix, solution, half_width, level=level)
    with pytest.raises(UserError, match="is infeasible"):
        bootstrap(matrix, solve_dual(matrix, Palette({"a": 99.0})))
