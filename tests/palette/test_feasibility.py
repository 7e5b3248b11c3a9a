"""Feasibility and certificates. Truth: one full linear program per case (oracles.py), hand arithmetic."""

import math

import numpy as np
import pytest

from mapft.palette import ESTIMATORS, Certificate, DualSolution, Palette, ScoreMatrix, Status, explain, solve_dual
from tests.palette import oracles


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("seed", range(6))
def test_margin_equals_the_full_program(estimator, seed):
    rng = np.random.default_rng(seed)
    scores_NV, ids_N = oracles.random_scores(rng, prompts=25, samples=4, values=4)
    targets_V = scores_NV.mean(axis=0) + rng.uniform(-0.5, 1.5, 4) * scores_NV.std(axis=0)
    matrix = ScoreMatrix(scores_NV, list("abcd"), ids_N)
    solution = solve_dual(matrix, Palette(dict(zip("abcd", targets_V, strict=True))), estimator=estimator)
    margin = oracles.full_margin(scores_NV, ids_N, targets_V, estimator)
    assert solution.margin == pytest.approx(margin, abs=1e-8)
    assert solution.status is (Status.optimal if margin > 0 else Status.infeasible)
    if solution.certificate is not None:
        assert solution.certificate.verify(matrix)
        assert solution.certificate.excess(matrix) == pytest.approx(-margin, abs=1e-8)


def test_feasibility_is_joint_and_the_certificate_is_one_dot_product():
    scores = np.array([[0.0, 1.0], [1.0, 0.0], [0.2, 0.2]])
    matrix = ScoreMatrix(scores, ["a", "b"], [0, 0, 0])
    for alone in ({"a": 0.6}, {"b": 0.6}):
        assert solve_dual(matrix, Palette(alone), estimator="pooled").status is Status.optimal
    solution = solve_dual(matrix, Palette({"a": 0.6, "b": 0.6}), estimator="pooled")
    assert solution.status is Status.infeasible
    q_V = np.array([solution.certificate["a"], solution.certificate["b"]])
    assert q_V.min() >= 0
    assert q_V @ [0.6, 0.6] > (scores @ q_V).max()
    assert solution.certificate.verify(matrix)
    assert math.isnan(solution.lam["a"])
    assert "certificate" in solution.status.sentence


def test_a_certificate_for_other_samples_does_not_verify():
    matrix = ScoreMatrix([[0.0, 1.0], [1.0, 0.0]], ["a", "b"], [0, 0])
    proof = solve_dual(matrix, Palette({"a": 0.8, "b": 0.8}), estimator="pooled").certificate
    richer = ScoreMatrix([[0.0, 1.0], [1.0, 0.0], [0.9, 0.9]], ["a", "b"], [0, 0, 0])
    assert proof.verify(matrix)
    assert not proof.verify(richer)


def test_negative_weights_prove_nothing():
    """-1 * (-1) = 1 is above every -r, but every policy meets c = -1."""
    matrix = ScoreMatrix([[0.0], [1.0]], ["a"], [0, 0])
    proof = Certificate({"a": -1.0}, {"a": -1.0}, "pooled")
    assert proof.excess(matrix) == pytest.approx(1.0)
    assert not proof.verify(matrix)


@pytest.mark.parametrize("estimator", ["pooled", "per_prompt"])
def test_the_largest_score_is_the_boundary(estimator):
    matrix = ScoreMatrix([[0.0], [1.0], [0.0], [1.0]], ["a"], [0, 0, 1, 1])
    assert solve_dual(matrix, Palette({"a": 1.0}), estimator=estimator).status is Status.boundary
    assert solve_dual(matrix, Palette({"a": 1.0 - 1e-6}), estimator=estimator).status is Status.optimal
    assert solve_dual(matrix, Palette({"a": 1.0 + 1e-6}), estimator=estimator).status is Status.infeasible


def test_opposite_values_have_margin_zero_and_finite_multipliers():
    """r and -r with c = (.3, -.3): .3 alone meets both, so the margin is 0, but e^(2 lam) = .65/.35."""
    matrix = ScoreMatrix([[1.0, -1.0], [-1.0, 1.0]], ["a", "b"], [0, 0])
    solution = solve_dual(matrix, Palette({"a": 0.3, "b": -0.3}), estimator="pooled")
    assert solution.status is Status.optimal
    assert solution.margin == pytest.approx(0.0, abs=1e-9)
    assert solution.lam["a"] - solution.lam["b"] == pytest.approx(math.log(0.65 / 0.35) / 2)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("level", [0.1, -3e6, 1e-6])
def test_constant_values(estimator, level):
    rng = np.random.default_rng(0)
    matrix = ScoreMatrix(np.column_stack([rng.normal(size=20), np.full(20, level)]), ["a", "b"], np.repeat(range(5), 4))
    step = 0.1 * abs(level)
    without = ScoreMatrix(matrix.scores[:, :1], ["a"], matrix.prompt_ids)
    alone = solve_dual(without, Palette({"a": 0.2}), estimator=estimator)
    for target in (level - step, level):
        solution = solve_dual(matrix, Palette({"a": 0.2, "b": target}), estimator=estimator)
        assert solution.status is Status.optimal
        assert solution.lam["a"] == pytest.approx(alone.lam["a"])
        assert solution.lam["b"] == 0.0
        assert solution.predicted["b"] == level
        assert solution.margin == pytest.approx(alone.margin)
    blocked = solve_dual(matrix, Palette({"a": 0.2, "b": level + step}), estimator=estimator)
    assert blocked.status is Status.infeasible
    assert blocked.certificate.verify(matrix)
    assert dict(blocked.certificate) == {"a": 0.0, "b": 1.0}


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_value_that_is_constant_within_prompts_cannot_be_raised(estimator):
    """No policy changes a score of the prompt alone, whatever the estimator re-weights."""
    matrix = ScoreMatrix([[0.0, 1.0], [0.0, 0.0], [1.0, 1.0], [1.0, 0.0]], ["prompt", "response"], [0, 0, 1, 1])
    solution = solve_dual(matrix, Palette({"prompt": 0.6}), estimator=estimator)
    assert solution.status is Status.infeasible
    assert solution.certificate.verify(matrix)
    feasible = solve_dual(matrix, Palette({"prompt": 0.5, "response": 0.7}), estimator=estimator)
    assert feasible.status is Status.optimal
    assert feasible.predicted["prompt"] == 0.5
    assert not feasible.caution


def test_what_one_sample_per_prompt_does_not_show_is_told():
    """The same scores from two prompts with two samples each decide what four prompts with one sample leave open."""
    scores_NV, palette = [[0.0], [0.0], [1.0], [1.0]], Palette({"a": 0.6})
    single = solve_dual(ScoreMatrix(scores_NV, ["a"], [0, 1, 2, 3]), palette, estimator="pooled")
    assert single.status is Status.optimal
    assert "Caution: 4 prompts have one sample, which does not show whether the scores differ" in single.sentence
    assert explain(ScoreMatrix(scores_NV, ["a"], [0, 1, 2, 3]), single).startswith(single.sentence)
    assert DualSolution.from_dict(single.to_dict()) == single
    assert (
        solve_dual(ScoreMatrix(scores_NV, ["a"], [0, 0, 1, 1]), palette, estimator="pooled").status is Status.infeasible
    )
    mixed = solve_dual(ScoreMatrix(scores_NV, ["a"], [0, 0, 1, 2]), palette, estimator="pooled")
    assert mixed.caution.startswith("Caution: 2 prompts have one sample")


@pytest.mark.parametrize("values", [1, 2, 16, 64])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_one_to_sixty_four_values(values, estimator):
    rng = np.random.default_rng(values)
    scores_NV, ids_N = oracles.random_scores(rng, prompts=50, samples=4, values=values, between=0.2)
    names = [f"v{i}" for i in range(values)]
    matrix = ScoreMatrix(scores_NV, names, ids_N)
    level_V = scores_NV[rng.choice(len(scores_NV), 40)].mean(axis=0)
    base_V, sd_V = scores_NV.mean(axis=0), scores_NV.std(axis=0)
    within_V = base_V + 0.5 * (level_V - base_V) - (0 if estimator == "pooled" else sd_V)
    for targets_V, expected in ((within_V, Status.optimal), (base_V + 30 * sd_V, Status.infeasible)):
        solution = solve_dual(matrix, Palette(dict(zip(names, targets_V, strict=True))), estimator=estimator)
        margin = oracles.full_margin(scores_NV, ids_N, targets_V, estimator)
        assert solution.margin == pytest.approx(margin, abs=1e-7)
        assert solution.status is expected
        if margin > 0:
            assert solution.kkt_residual <= 1e-9
            assert solution.duality_gap <= 1e-9


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_duplicated_values_share_the_multiplier(estimator):
    scores_NV, ids_N = oracles.random_scores(np.random.default_rng(4), values=2)
    once = ScoreMatrix(scores_NV, ["a", "b"], ids_N)
    twice = ScoreMatrix(np.column_stack([scores_NV, scores_NV[:, 0]]), ["a", "b", "copy"], ids_N)
    steps = {"a": 0.3, "b": 0.1}
    one = solve_dual(once, Palette.of(once, sd=steps), estimator=estimator)
    two = solve_dual(twice, Palette.of(twice, sd={**steps, "copy": 0.3}), estimator=estimator)
    assert two.status is Status.optimal
    assert two.kkt_residual <= 1e-9
    assert two.lam["a"] + two.lam["copy"] == pytest.approx(one.lam["a"], rel=1e-8)
    assert two.lam["b"] == pytest.approx(one.lam["b"], rel=1e-8)


@pytest.mark.parametrize("target", [1e30, -1e30, 1e300])
def test_extreme_targets_have_a_status(target):
    matrix = ScoreMatrix([[0.0, 1.0], [1.0, 0.0], [0.2, 0.2]], ["a", "b"], [0, 0, 0])
    solution = solve_dual(matrix, Palette({"a": target, "b": 0.5}), estimator="pooled")
    assert solution.status is (Status.infeasible if target > 0 else Status.optimal)
    assert solution.certificate is None or solution.certificate.verify(matrix)


@pytest.mark.parametrize("seed", range(20))
def test_a_target_far_below_the_base_level_changes_no_status(seed):
    """Of two opposite values at their base levels neither can rise: the margin is 0, but lambda is finite."""
    first_N, other_N = np.random.default_rng(seed).normal(size=(2, 60))
    matrix = ScoreMatrix(np.stack([first_N, -first_N, other_N], axis=1), ["up", "down", "other"], np.arange(60))
    levels = {"up": matrix.base["up"], "down": matrix.base["down"]}
    for far in (1e3, 1e9):
        solution = solve_dual(matrix, Palette(levels | {"other": -far}), estimator="pooled")
        assert solution.status is Status.optimal
        assert solution.kl == pytest.approx(0, abs=1e-9)
