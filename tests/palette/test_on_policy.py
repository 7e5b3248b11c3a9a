"""Multipliers from rollouts. Truth: Gaussian scores, p_lam is N(mu + Sigma lam, Sigma), lam* = Sigma^-1 (c - mu)."""

import numpy as np
import pytest

from mapft.palette import Palette, ScoreMatrix, estimate, increment

MEAN = np.array([1.0, -2.0])
COVARIANCE = np.array([[1.0, 0.4], [0.4, 2.0]])
VALUES = ("a", "b")


def policy_rollouts(lam, n=200_000, per_prompt=1, mean=MEAN):
    """Rollouts of p_lam with exact mean and covariance; only higher moments are random."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, 2))
    x = (x - x.mean(0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(x.T, bias=True))).T
    scores = mean + COVARIANCE @ lam + x @ np.linalg.cholesky(COVARIANCE).T
    return ScoreMatrix(scores, VALUES, np.arange(n) // per_prompt)


def solution(target):
    return np.linalg.solve(COVARIANCE, target - MEAN)


@pytest.mark.parametrize("per_prompt", [1, 2])
@pytest.mark.parametrize("start", [(0.0, 0.0), (0.3, 0.1), (0.9, 0.6)])
def test_lam_becomes_the_solution_from_any_policy_p_lam(start, per_prompt):
    target = np.array([1.5, -1.0])
    lam = dict(zip(VALUES, start, strict=True))
    refined = increment(
        policy_rollouts(np.array(start), per_prompt=per_prompt), Palette(dict(zip(VALUES, target, strict=True))), lam
    )
    assert refined.share == 1
    np.testing.assert_allclose(list(refined.lam.values()), solution(target), atol=0.01)
    for name in VALUES:
        assert refined.delta[name] == pytest.approx(refined.lam[name] - lam[name], abs=1e-12)


def test_a_multiplier_falls_to_zero_and_no_further():
    """The target of b is slack, so lam_a = (c_a - mu_a) / Sigma_aa."""
    refined = increment(policy_rollouts(np.array([0.3, 0.3])), Palette({"a": 1.5, "b": -2.5}), {"a": 0.3, "b": 0.3})
    assert refined.lam["b"] == 0
    assert refined.delta["b"] == pytest.approx(-0.3)
    assert refined.lam["a"] == pytest.approx(0.5, abs=0.01)


def test_lam_stays_where_the_policy_meets_the_palette():
    lam = {"a": 0.3, "b": 0.1}
    rollouts = policy_rollouts(np.array([0.3, 0.1]), n=1000)
    refined = increment(rollouts, Palette(rollouts.base), lam)
    assert refined.lam == pytest.approx(lam, abs=1e-9)
    assert refined.ess == pytest.approx(1000)


def test_a_free_value_keeps_lam_zero():
    refined = increment(policy_rollouts(np.array([0.3, 0.0])), Palette({"a": 1.5}), {"a": 0.3, "b": 0.0})
    assert refined.lam["b"] == 0
    assert refined.lam["a"] == pytest.approx(0.5, abs=0.01)


def test_a_distant_target_is_approached_while_half_of_the_rollouts_stay_effective():
    rollouts = policy_rollouts(np.zeros(2), n=2000)
    refined = increment(rollouts, Palette({"a": 50.0, "b": 0.0}), {"a": 0.0, "b": 0.0})
    assert 0 < refined.share < 1
    assert refined.ess >= 1000
    assert refined.lam["a"] > 0.1


def test_variance_between_prompts_shortens_pooled_steps_but_not_centered_ones():
    """Half of the variance between prompts, K = 2: within-prompt variance 1 gives lam = 1 for a target of one more."""
    rng = np.random.default_rng(1)
    scores = np.repeat(rng.standard_normal(100_000), 2) + rng.standard_normal(200_000)
    paired = ScoreMatrix(scores[:, None], ["a"], np.arange(200_000) // 2)
    single = ScoreMatrix(scores[:, None], ["a"], np.arange(200_000))
    target = Palette({"a": paired.base["a"] + 0.5})
    assert increment(paired, target, {"a": 0.0}).lam["a"] == pytest.approx(0.5, abs=0.02)
    assert increment(single, target, {"a": 0.0}).lam["a"] == pytest.approx(0.25, abs=0.02)


def test_rollouts_without_a_jointly_good_response_change_lam_little():
    """Responses (1,0), (0,1) and, 4 % of them, (1,1), of which 32 rollouts often have none: lam stays bounded."""
    rng = np.random.default_rng(2)
    outcomes = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    for _ in range(100):
        scores = outcomes[rng.choice(3, size=32, p=[0.48, 0.48, 0.04])]
        refined = increment(
            ScoreMatrix(scores, VALUES, np.arange(32)), Palette({"a": 0.6, "b": 0.6}), {"a": 0.0, "b": 0.0}
        )
        assert max(refined.lam.values()) < 20
        assert refined.share < 1 or not (scores[:, 0] * scores[:, 1] == 0).all()


def test_a_value_that_is_constant_within_prompts_keeps_its_multiplier():
    rng, ids = np.random.default_rng(1), np.repeat(np.arange(32), 8)
    rollouts = ScoreMatrix(np.column_stack([rng.normal(size=256), rng.random(32)[ids]]), ["humor", "topic"], ids)
    target = Palette({"humor": rollouts.base["humor"] + 0.2, "topic": rollouts.base["topic"] + 0.01})
    refined = increment(rollouts, target, {"humor": 0.5, "topic": 0.0})
    assert refined.lam["topic"] == 0
    assert 0.6 < refined.lam["humor"] < 0.8


def test_opposite_values_that_should_both_rise_keep_their_multipliers():
    a = np.random.default_rng(0).normal(size=400)
    rollouts = ScoreMatrix(np.column_stack([a, -a]), ["a", "b"], np.arange(400) // 4)
    refined = increment(rollouts, Palette({"a": a.mean() + 0.1, "b": 0.1 - a.mean()}), {"a": 0.3, "b": 0.1})
    assert refined.lam == {"a": 0.3, "b": 0.1}
    assert refined.share == 0


def test_an_unnamed_value_keeps_its_multiplier_and_does_not_affect_others():
    rollouts = policy_rollouts(np.array([0.2, 0.5]))
    refined = increment(rollouts, Palette({"a": rollouts.base["a"]}), {"a": 0.2, "b": 0.5})
    assert refined.lam == pytest.approx({"a": 0.2, "b": 0.5}, abs=1e-9)


def test_large_multipliers_stay_where_the_policy_meets_the_palette():
    rollouts = ScoreMatrix(np.random.default_rng(0).normal(size=(400, 1)), ["a"], np.arange(400) // 4)
    assert increment(rollouts, Palette(rollouts.base), {"a": 500.0}).lam["a"] == pytest.approx(500.0, rel=1e-9)


def visits(target, rounds):
    """lam after cycles of one-value refinements, each on the scores of that value alone, as in the sequential mode."""
    lam = np.zeros(2)
    for _ in range(rounds):
        for i, name in enumerate(VALUES):
            rollouts = policy_rollouts(lam, n=20_000)
            samples = ScoreMatrix(rollouts.scores[:, [i]], [name], rollouts.prompt_ids)
            lam[i] = increment(samples, Palette({name: target[i]}), {name: lam[i]}).lam[name]
    return lam


def test_a_cycle_of_one_value_refinements_reaches_the_simultaneous_solution():
    """lam* = (.1, .6). The first visit to a, with lam_b = 0, needs .1 + .4 * .6 = .34, which later visits must lower.

    With increments >= 0 only, as in equation 9 of the paper, the cycle would stop at lam = (.34, .552).
    """
    target = MEAN + COVARIANCE @ [0.1, 0.6]
    first = visits(target, rounds=1)
    np.testing.assert_allclose(first, [0.34, 0.552], atol=0.01)
    np.testing.assert_allclose(visits(target, rounds=4), [0.1, 0.6], atol=0.01)


# ---------------------------------------------------------------------- estimate


def rollouts_of(level, n=40_000, seed=0):
    """Rollouts of N(level, COVARIANCE), two to a prompt, and log pi/p0 where p0 is N(MEAN, COVARIANCE)."""
    rng = np.random.default_rng(seed)
    scores = level + rng.standard_normal((n, 2)) @ np.linalg.cholesky(COVARIANCE).T
    shift = np.linalg.solve(COVARIANCE, level - MEAN)
    log_ratio = (scores - MEAN) @ shift - shift @ COVARIANCE @ shift / 2
    return ScoreMatrix(scores, VALUES, np.arange(n) // 2), log_ratio


ZERO = dict.fromkeys(VALUES, 0.0)
TARGET = np.array([1.5, -1.0])


@pytest.mark.parametrize("level", [MEAN, (MEAN + TARGET) / 2, TARGET, 1.2 * TARGET])
def test_the_estimate_is_the_solution_for_rollouts_of_any_policy(level):
    rollouts, log_ratio = rollouts_of(level)
    found = estimate(rollouts, log_ratio, Palette(dict(zip(VALUES, TARGET, strict=True))), ZERO, ZERO)
    for name, exact in zip(VALUES, solution(TARGET), strict=True):
        assert 0 < found.standard_error[name] < 0.02
        assert found.lam[name] == pytest.approx(exact, abs=3 * found.standard_error[name])
    assert (found.ess > 0.999) == (level is TARGET)


def test_the_standard_error_is_the_spread_over_samples():
    palette = Palette(dict(zip(VALUES, TARGET, strict=True)))
    found = [estimate(*rollouts_of((MEAN + TARGET) / 2, 800, seed), palette, ZERO, ZERO) for seed in range(200)]
    for name in VALUES:
        spread = np.std([one.lam[name] for one in found])
        assert np.mean([one.standard_error[name] for one in found]) == pytest.approx(spread, rel=0.15)


def test_the_reference_can_be_a_policy_p_mu():
    """Rollouts and log-ratios against p_mu: the solution is still that for p0, because p_mu is its tilt."""
    mu = np.array([0.2, 0.3])
    rollouts, log_ratio = rollouts_of(TARGET)
    against_mu = log_ratio - rollouts.scores @ mu
    palette, named = Palette(dict(zip(VALUES, TARGET, strict=True))), dict(zip(VALUES, mu, strict=True))
    found = estimate(rollouts, against_mu, palette, named, named)
    direct = estimate(rollouts, log_ratio, palette, ZERO, ZERO)
    assert found.lam == pytest.approx(direct.lam, abs=1e-9)


def test_the_estimate_leaves_a_value_without_a_target_as_it_is():
    """With lam_b fixed at .5, a needs lam_a = (c_a - mu_a - Sigma_ab * .5) / Sigma_aa = .3."""
    rollouts, log_ratio = rollouts_of(TARGET, 200_000)
    found = estimate(rollouts, log_ratio, Palette({"a": 1.5}), {"a": 0.0, "b": 0.5}, ZERO)
    assert found.lam["b"] == 0.5
    assert found.standard_error["b"] == 0
    assert found.lam["a"] == pytest.approx(0.3, abs=0.02)


def test_there_is_no_estimate_for_a_target_beyond_all_rollouts():
    rollouts, log_ratio = rollouts_of(MEAN, 1000)
    assert estimate(rollouts, log_ratio, Palette({"a": 50.0}), ZERO, ZERO) is None


def test_there_is_no_estimate_where_a_few_weights_decide():
    """Rollouts of a policy 3 sd beyond the target have the targets in range, but hardly any of them is effective."""
    beyond = MEAN + 3 * np.array([1.0, 1.4])
    rollouts, log_ratio = rollouts_of(beyond, 2000)
    assert estimate(rollouts, log_ratio, Palette(dict(zip(VALUES, TARGET, strict=True))), ZERO, ZERO) is None


def test_two_kinds_of_prompts_bias_the_pilot_but_not_rollouts_of_p_lam():
    """Half of the prompts with sd 1, half with sd 2: E_p_lam r = lam (1 + 4) / 2, so lam = .4 for a target of 1.

    From base samples, `centered` treats all deviations as one distribution, whose skewness it does not have per prompt.
    """
    rng = np.random.default_rng(0)
    sd = np.repeat(np.tile([1.0, 2.0], 20_000), 4)
    base = ScoreMatrix((sd * rng.standard_normal(160_000))[:, None], ["a"], np.arange(160_000) // 4)
    tuned = 0.4 * sd**2 + sd * rng.standard_normal(160_000)
    rollouts = ScoreMatrix(tuned[:, None], ["a"], np.arange(160_000) // 4)
    log_ratio = 0.4 * tuned - 0.08 * sd**2
    zero, palette = {"a": 0.0}, Palette({"a": 1.0})
    pilot = estimate(base, np.zeros(160_000), palette, zero, zero).lam["a"]
    assert pilot < 0.38
    found = estimate(rollouts, log_ratio, palette, zero, zero)
    assert found.lam["a"] == pytest.approx(0.4, abs=3 * found.standard_error["a"])
