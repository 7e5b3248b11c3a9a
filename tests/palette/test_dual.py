"""The dual solver. Truth: closed forms, an independent general solver; test_paper.py has the paper's table."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
from scipy.stats import norm

from mapft.palette import ESTIMATORS, DualSolution, Palette, ScoreMatrix, Status, solve_dual
from mapft.palette.problem import Problem
from mapft.utils.errors import UserError
from tests.palette import oracles


@pytest.mark.parametrize("estimator", ["pooled", "per_prompt"])
def test_coin_closed_form(estimator):
    """Scores {0, 1}, target .8: odds e^lam = .8/.2; KL = .8 log 1.6 + .2 log .4."""
    matrix = ScoreMatrix([[0.0], [1.0]], ["a"], [0, 0])
    solution = solve_dual(matrix, Palette({"a": 0.8}), estimator=estimator)
    assert solution.lam["a"] == pytest.approx(math.log(4), abs=1e-12)
    assert solution.kl == pytest.approx(0.8 * math.log(1.6) + 0.2 * math.log(0.4), abs=1e-12)
    assert solution.ess == pytest.approx(1 / (0.8**2 + 0.2**2))
    assert solution.margin == pytest.approx(0.2 / 0.5)
    assert solution.predicted["a"] == pytest.approx(0.8, abs=1e-12)


def test_coin_closed_form_centered():
    """d = +-sqrt(2)/2 about mean 1/2: .5 + s tanh(lam s) = .8 with s = sqrt(2)/2."""
    matrix = ScoreMatrix([[0.0], [1.0]], ["a"], [0, 0])
    spread = math.sqrt(0.5)
    solution = solve_dual(matrix, Palette({"a": 0.8}), estimator="centered")
    assert solution.lam["a"] == pytest.approx(math.atanh(0.3 / spread) / spread, abs=1e-12)


def test_gaussian_closed_form():
    """Gaussian scores: lam = Sigma^-1 (c - mu), KL = lam' Sigma lam / 2; on a 300 x 300 quantile grid."""
    quantiles = norm.ppf((np.arange(300) + 0.5) / 300)
    white = np.stack(np.meshgrid(quantiles, quantiles), axis=-1).reshape(-1, 2) / quantiles.std()
    root_VV, mu_V, step_V = np.array([[1.0, 0.0], [0.6, 0.8]]), np.array([3.0, -1.0]), np.array([0.30, 0.25])
    matrix = ScoreMatrix(white @ root_VV.T + mu_V, ["a", "b"], np.arange(len(white)))
    solution = solve_dual(matrix, Palette(dict(zip("ab", mu_V + step_V, strict=True))), estimator="pooled")
    expected_V = np.linalg.solve(root_VV @ root_VV.T, step_V)
    np.testing.assert_allclose(list(solution.lam.values()), expected_V, atol=5e-4)
    assert solution.kl == pytest.approx(expected_V @ step_V / 2, abs=1e-4)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_a_general_solver(estimator, seed):
    rng = np.random.default_rng(seed)
    scores_NV, ids_N = oracles.random_scores(rng)
    targets_V = scores_NV.mean(axis=0) + rng.uniform(-0.3, 0.4, 3) * scores_NV.std(axis=0)
    solution = solve_dual(
        ScoreMatrix(scores_NV, ["a", "b", "c"], ids_N),
        Palette(dict(zip("abc", targets_V, strict=True))),
        estimator=estimator,
    )
    reference_V = oracles.dual_by_general_solver(scores_NV, ids_N, targets_V, estimator)
    assert solution.status is Status.optimal
    np.testing.assert_allclose(list(solution.lam.values()), reference_V, rtol=1e-4, atol=1e-5)
    lam_V = np.array(list(solution.lam.values()))
    dual = lam_V @ targets_V - oracles.log_partition(lam_V, scores_NV, ids_N, estimator)
    assert solution.kl == pytest.approx(dual, abs=1e-9)


def test_slack_targets_have_multiplier_exactly_zero_and_free_values_are_reported():
    scores_NV, ids_N = oracles.random_scores(np.random.default_rng(5))
    matrix = ScoreMatrix(scores_NV, ["a", "b", "c"], ids_N)
    palette = Palette({"b": matrix.base["b"] + 0.3 * matrix.sd["b"], "c": matrix.base["c"] - 2 * matrix.sd["c"]})
    solution = solve_dual(matrix, palette)
    assert solution.lam["a"] == 0.0
    assert solution.lam["c"] == 0.0
    assert solution.lam["b"] > 0
    lam_V = np.array(list(solution.lam.values()))
    predicted_V = oracles.gradient(lambda at: oracles.log_partition(at, scores_NV, ids_N, "centered"), lam_V)
    np.testing.assert_allclose(list(solution.predicted.values()), predicted_V, atol=1e-8)


def test_a_palette_below_the_base_level_has_lam_zero():
    scores_NV, ids_N = oracles.random_scores(np.random.default_rng(6))
    matrix = ScoreMatrix(scores_NV, ["a", "b", "c"], ids_N)
    solution = solve_dual(matrix, Palette({"a": matrix.base["a"] - 1, "b": matrix.base["b"] - 1}))
    assert solution.lam == {"a": 0.0, "b": 0.0, "c": 0.0}
    assert solution.kl == pytest.approx(0.0, abs=1e-12)
    assert solution.ess == pytest.approx(len(matrix))


def test_an_unknown_value_is_refused_with_both_sets_of_names():
    matrix = ScoreMatrix([[0.0], [1.0]], ["humor"], [0, 0])
    with pytest.raises(UserError, match=r"\{humour\}.*\{humor\}"):
        solve_dual(matrix, Palette({"humour": 0.8}))


@pytest.mark.parametrize("target", [0.8, 1.0, 2.0])
def test_json_round_trip(target):
    matrix = ScoreMatrix([[0.0, 1.0], [1.0, 1.0]], ["a", "constant"], [0, 0])
    solution = solve_dual(matrix, Palette({"a": target}), estimator="pooled")
    text = json.dumps(solution.to_dict(), allow_nan=False)
    again = DualSolution.from_dict(json.loads(text))
    assert json.dumps(again.to_dict(), allow_nan=False) == text
    assert again.status is solution.status
    if solution.certificate is not None:
        assert again.certificate.verify(matrix)


def test_json_keeps_an_infinite_margin():
    matrix = ScoreMatrix([[1.0], [1.0]], ["constant"], [0, 0])
    solution = solve_dual(matrix, Palette({"constant": 0.5}))
    assert DualSolution.from_dict(json.loads(json.dumps(solution.to_dict(), allow_nan=False))).margin == math.inf


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_newton_stops_early_where_no_maximum_exists(estimator):
    """g(lam) above log N, the largest KL that N rows allow, proves that the target is infeasible."""
    scores_NV, ids_N = oracles.random_scores(np.random.default_rng(9))
    problem = Problem(ScoreMatrix(scores_NV, ["a", "b", "c"], ids_N), estimator)
    iterate = problem.maximise_dual(np.array([4.0, 4.0, 4.0]))
    assert iterate.kkt_residual > 1e-9
    assert iterate.dual > np.log(len(ids_N))
    assert iterate.steps < 20


def test_a_start_does_not_change_the_solution_and_saves_steps():
    scores_NV, ids_N = oracles.random_scores(np.random.default_rng(8))
    problem = Problem(ScoreMatrix(scores_NV, ["a", "b", "c"], ids_N), "centered")
    target_V = np.array([0.3, 0.2, -np.inf])
    cold = problem.maximise_dual(target_V)
    warm = problem.maximise_dual(target_V, cold.lam_V)
    np.testing.assert_allclose(warm.lam_V, cold.lam_V, atol=1e-12)
    assert warm.steps < cold.steps
    far = problem.maximise_dual(target_V, np.array([1e9, 0.0, 5.0]))  # g is lower there than at 0
    np.testing.assert_array_equal(far.lam_V, cold.lam_V)


def test_importing_the_palette_imports_nothing_heavy():
    heavy = {"torch", "pandas", "pyarrow", "rich", "matplotlib"}
    code = f"import sys, mapft.palette; print(sorted({heavy} & set(sys.modules)))"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "[]"


@pytest.mark.parametrize("shift", [1e5, 1e6])
def test_opposite_values_with_a_shift(shift):
    """a and shift - a, with targets that are opposite up to the rounding of the shift."""
    for seed in range(40):
        rng = np.random.default_rng(seed)
        a = rng.normal(size=200)
        matrix = ScoreMatrix(np.column_stack([a, shift - a]), ["a", "b"], np.arange(200) // 4)
        x = float(np.round(rng.uniform(0.05, 0.8), 3))
        solution = solve_dual(matrix, Palette({"a": x, "b": shift - x}))
        alone = solve_dual(matrix, Palette({"a": x}))
        assert solution.status in (Status.optimal, Status.boundary)
        if solution.status is Status.optimal:
            assert solution.lam["a"] - solution.lam["b"] == pytest.approx(alone.lam["a"], abs=1e-4)
            assert max(solution.lam.values()) < 100


def test_heavy_tails_near_the_boundary_are_solved():
    """Where p_lam has nearly all its weight on one row, Newton's first step is 1e26 too long."""
    for seed in range(80):
        rng = np.random.default_rng(seed)
        scores_NV = rng.normal(size=(100, 2)) ** 5
        matrix = ScoreMatrix(scores_NV, ["a", "b"], np.arange(100) // 4)
        high = matrix.base["a"] + rng.uniform(0.8, 0.99) * (scores_NV[:, 0].max() - matrix.base["a"])
        palette = Palette({"a": high, "b": matrix.base["b"] - 0.1 * matrix.sd["b"]})
        solution = solve_dual(matrix, palette, estimator="pooled")
        assert solution.status is (Status.optimal if solution.margin > 0 else Status.infeasible)
