"""Fronts and regions. Truth: closed forms, convex hulls, full linear programs, a general solver."""

import numpy as np
import pytest
from scipy.optimize import linprog, minimize
from scipy.spatial import ConvexHull
from scipy.stats import norm

from mapft.palette import ESTIMATORS, Palette, ScoreMatrix, feasible_region, pareto_front
from mapft.utils.errors import UserError
from tests.palette import oracles


def gaussian_grid():
    quantiles = norm.ppf((np.arange(200) + 0.5) / 200)
    white = np.stack(np.meshgrid(quantiles, quantiles), axis=-1).reshape(-1, 2) / quantiles.std()
    return ScoreMatrix(white * [1.0, 5.0] + [0.0, 100.0], ["a", "b"], np.arange(len(white)))


def test_gaussian_front_is_a_circle():
    """KL = |lam|^2 / 2 and level = lam for independent unit Gaussians: radius sqrt(2 KL) in sd."""
    front = pareto_front(gaussian_grid(), ["a", "b"], 9, kl=0.5, estimator="pooled")
    levels_nV = (front.levels_nV - [0.0, 100.0]) / [1.0, 5.0]
    angle_n = np.linspace(0, np.pi / 2, 9)
    np.testing.assert_allclose(levels_nV, np.column_stack([np.cos(angle_n), np.sin(angle_n)]), atol=0.01)
    np.testing.assert_allclose(front.kl_n, 0.5, atol=1e-9)
    assert front.values == ("a", "b")


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_no_policy_within_the_kl_does_better_in_its_direction(estimator):
    """Second solver: SLSQP over lam, maximising rho.level subject to KL <= kl, by the formulas."""
    scores_NV, ids_N = oracles.random_scores(np.random.default_rng(0), prompts=10, samples=5, between=0.2)
    matrix = ScoreMatrix(scores_NV, ["a", "b", "c"], ids_N)
    front = pareto_front(matrix, ["a", "b", "c"], 6, kl=0.2, estimator=estimator)
    sd_V = scores_NV.std(axis=0)

    def level_V(lam_V):
        return oracles.gradient(lambda at: oracles.log_partition(at, scores_NV, ids_N, estimator), lam_V)

    def kl(lam_V):
        return lam_V @ level_V(lam_V) - oracles.log_partition(lam_V, scores_NV, ids_N, estimator)

    levels = front.levels_nV
    assert not any((a >= b).all() and (a > b).any() for a in levels for b in levels)
    for rho_V, lam_V, levels_V in zip(front.directions_nV, front.lam_nV, front.levels_nV, strict=True):
        np.testing.assert_allclose(level_V(lam_V), levels_V, atol=1e-6)
        within = {"type": "ineq", "fun": lambda lam_V: 0.2 - kl(lam_V)}
        best = minimize(
            lambda lam_V, rho_V=rho_V: -(rho_V / sd_V) @ level_V(lam_V), lam_V * 0.5 + 0.1, constraints=[within]
        )
        assert -best.fun <= (rho_V / sd_V) @ levels_V + 1e-4


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize(
    "shape", [np.sign, np.cbrt, np.exp, lambda z: z**5], ids=["two points", "light", "up", "heavy"]
)
def test_points_of_a_front_have_the_requested_kl(shape, estimator):
    """By the formula KL = lam.level - E log Z, for scores of any shape; less only where lam has its largest length."""
    scores_NV, ids_N = oracles.random_scores(np.random.default_rng(4), prompts=20, samples=6, between=0.2)
    scores_NV = shape(3 * scores_NV)
    matrix = ScoreMatrix(scores_NV, ["a", "b", "c"], ids_N)
    for kl in (1e-6, 0.01, 0.3, 1.0, 3.0):
        front = pareto_front(matrix, ["a", "b", "c"], 5, kl=kl, estimator=estimator)
        for lam_V, level_V, kl_of_point in zip(front.lam_nV, front.levels_nV, front.kl_n, strict=True):
            formula = lam_V @ level_V - oracles.log_partition(lam_V, scores_NV, ids_N, estimator)
            assert kl_of_point == pytest.approx(formula, abs=1e-8)
            if kl_of_point != pytest.approx(kl, rel=1e-7):
                assert kl_of_point < kl
                assert (lam_V * scores_NV.std(axis=0)).sum() == pytest.approx(2.0**20)


def test_a_kl_that_the_samples_cannot_reach_is_reported_as_less():
    matrix = ScoreMatrix([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], ["a", "b"], [0, 0, 0, 0])
    front = pareto_front(matrix, ["a", "b"], 3, kl=5.0, estimator="pooled")
    np.testing.assert_allclose(front.kl_n, [np.log(2), np.log(4), np.log(2)], atol=1e-6)
    np.testing.assert_allclose(front.levels_nV[1], [1.0, 1.0], atol=1e-6)


def test_the_pooled_region_is_the_convex_hull():
    matrix = ScoreMatrix(np.random.default_rng(1).normal(size=(300, 2)) * [1, 7], ["a", "b"], np.arange(300) // 3)
    region = feasible_region(matrix, "a", "b", estimator="pooled", tolerance=1e-6)
    hull = ConvexHull(matrix.scores)
    assert len(region) == len(hull.vertices)
    np.testing.assert_allclose(ConvexHull(region).volume, hull.volume, rtol=1e-9)
    turns = np.roll(region, -1, axis=0) - region
    following = np.roll(turns, -1, axis=0)
    assert (turns[:, 0] * following[:, 1] - turns[:, 1] * following[:, 0] > 0).all()  # counter-clockwise


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_region_with_other_targets_agrees_with_the_full_program(estimator):
    scores_NV, ids_N = oracles.random_scores(np.random.default_rng(2), prompts=15, samples=4, values=4, between=0.2)
    matrix = ScoreMatrix(scores_NV, ["a", "b", "c", "d"], ids_N)
    others = Palette.of(matrix, sd={"a": 9.0, "c": 0.1, "d": 0.05})
    region = feasible_region(matrix, "a", "b", others=others, estimator=estimator, tolerance=1e-4)
    points_NV = scores_NV if estimator != "centered" else scores_NV.mean(axis=0) + oracles.deviations(scores_NV, ids_N)
    groups = oracles.prompts_of(ids_N) if estimator == "per_prompt" else [np.arange(len(ids_N))]
    equations = np.array([np.isin(np.arange(len(ids_N)), rows) for rows in groups], dtype=float)
    for angle in np.linspace(0, 2 * np.pi, 12, endpoint=False):
        direction = np.array([np.cos(angle), np.sin(angle)]) / scores_NV.std(axis=0)[:2]
        result = linprog(
            -points_NV[:, :2] @ direction,
            A_ub=-points_NV[:, 2:].T,
            b_ub=[-others.targets["c"], -others.targets["d"]],
            A_eq=equations,
            b_eq=[len(rows) / len(ids_N) for rows in groups],
        )
        assert (region @ direction).max() == pytest.approx(-result.fun, abs=3e-4)


def test_a_region_that_is_a_point_or_a_segment():
    matrix = ScoreMatrix([[2.0, 3.0, 0.0], [2.0, 3.0, 1.0]], ["a", "b", "c"], [0, 0])
    np.testing.assert_allclose(feasible_region(matrix, "a", "b", estimator="pooled"), [[2.0, 3.0]])
    line = feasible_region(matrix, "a", "c", estimator="pooled")
    np.testing.assert_allclose(np.unique(line, axis=0), [[2.0, 0.0], [2.0, 1.0]])


def test_invalid_options_are_refused():
    matrix = gaussian_grid()
    for call, sentence in (
        (lambda: pareto_front(matrix, ["a", "a"], estimator="pooled"), "name each value once"),
        (lambda: pareto_front(matrix, ["a", "b"], 1, estimator="pooled"), "n=1 is invalid"),
        (lambda: pareto_front(matrix, ["a", "b"], kl=0.0, estimator="pooled"), "kl=0.0 is invalid"),
        (lambda: pareto_front(matrix, ["a", "z"], estimator="pooled"), "has no value z"),
        (lambda: feasible_region(matrix, "a", "a", estimator="pooled"), "two different values"),
    ):
        with pytest.raises(UserError, match=sentence):
            call()
    three = ScoreMatrix([[0.0, 0, 0], [1, 1, 1]], ["a", "b", "c"], [0, 0])
    with pytest.raises(UserError, match="infeasible by themselves"):
        feasible_region(three, "a", "b", others=Palette({"c": 3.0}), estimator="pooled")


@pytest.mark.parametrize("tolerance", [0.0, -1.0, float("nan")])
def test_a_region_needs_a_positive_tolerance(tolerance):
    matrix = ScoreMatrix(np.random.default_rng(0).normal(size=(40, 2)), ["a", "b"], np.arange(40) // 4)
    with pytest.raises(UserError, match="tolerance=.* is invalid"):
        feasible_region(matrix, "a", "b", tolerance=tolerance)


def test_a_constant_value_has_lambda_zero_on_the_front():
    scores_NV = np.column_stack([np.random.default_rng(0).normal(size=40), np.full(40, 2.0)])
    front = pareto_front(ScoreMatrix(scores_NV, ["a", "b"], np.arange(40) // 4), ["a", "b"], n=5)
    assert (front.lam_nV[:, 1] == 0).all()
    assert (front.levels_nV[:, 1] == 2.0).all()
