"""The dual solver. Truth: closed forms, an independent general solver, the paper's table (method section 10)."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
from scipy.stats import norm

from mapft.errors import UserError
from mapft.palette import ESTIMATORS, DualSolution, Palette, RewardMatrix, Status, solve_dual, solve_many
from mapft.palette.problem import Problem
from tests import oracles


@pytest.mark.parametrize("estimator", ["pooled", "per_prompt"])
def test_coin_closed_form(estimator):
    """Scores {0, 1}, target .8: odds e^lam = .8/.2; KL = .8 log 1.6 + .2 log .4."""
    matrix = RewardMatrix([[0.0], [1.0]], ["a"], [0, 0])
    solution = solve_dual(matrix, Palette({"a": 0.8}), estimator=estimator)
    assert solution.lam["a"] == pytest.approx(math.log(4), abs=1e-12)
    assert solution.kl == pytest.approx(0.8 * math.log(1.6) + 0.2 * math.log(0.4), abs=1e-12)
    assert solution.ess == pytest.approx(1 / (0.8**2 + 0.2**2))
    assert solution.margin == pytest.approx(0.2 / 0.5)
    assert solution.realized["a"] == pytest.approx(0.8, abs=1e-12)


def test_coin_closed_form_centered():
    """d = +-sqrt(2)/2 about mean 1/2: .5 + s tanh(lam s) = .8 with s = sqrt(2)/2."""
    matrix = RewardMatrix([[0.0], [1.0]], ["a"], [0, 0])
    spread = math.sqrt(0.5)
    solution = solve_dual(matrix, Palette({"a": 0.8}), estimator="centered")
    assert solution.lam["a"] == pytest.approx(math.atanh(0.3 / spread) / spread, abs=1e-12)


def test_gaussian_closed_form():
    """Gaussian scores: lam = Sigma^-1 (c - mu), KL = lam' Sigma lam / 2; on a 300 x 300 quantile grid."""
    quantiles = norm.ppf((np.arange(300) + 0.5) / 300)
    white = np.stack(np.meshgrid(quantiles, quantiles), axis=-1).reshape(-1, 2) / quantiles.std()
    root_VV, mu_V, step_V = np.array([[1.0, 0.0], [0.6, 0.8]]), np.array([3.0, -1.0]), np.array([0.30, 0.25])
    matrix = RewardMatrix(white @ root_VV.T + mu_V, ["a", "b"], np.arange(len(white)))
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
        RewardMatrix(scores_NV, ["a", "b", "c"], ids_N),
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
    matrix = RewardMatrix(scores_NV, ["a", "b", "c"], ids_N)
    palette = Palette({"b": matrix.base["b"] + 0.3 * matrix.sd["b"], "c": matrix.base["c"] - 2 * matrix.sd["c"]})
    solution = solve_dual(matrix, palette)
    assert solution.lam["a"] == 0.0
    assert solution.lam["c"] == 0.0
    assert solution.lam["b"] > 0
    lam_V = np.array(list(solution.lam.values()))
    realized_V = oracles.gradient(lambda at: oracles.log_partition(at, scores_NV, ids_N, "centered"), lam_V)
    np.testing.assert_allclose(list(solution.realized.values()), realized_V, atol=1e-8)


def test_a_palette_below_the_base_level_changes_nothing():
    scores_NV, ids_N = oracles.random_scores(np.random.default_rng(6))
    matrix = RewardMatrix(scores_NV, ["a", "b", "c"], ids_N)
    solution = solve_dual(matrix, Palette({"a": matrix.base["a"] - 1, "b": matrix.base["b"] - 1}))
    assert solution.lam == {"a": 0.0, "b": 0.0, "c": 0.0}
    assert solution.kl == pytest.approx(0.0, abs=1e-12)
    assert solution.ess == pytest.approx(len(matrix))


@oracles.needs_paper_data()
@pytest.mark.parametrize("name", oracles.PAPER_ROWS)
def test_the_papers_palettes_on_the_papers_scores(name):
    hhh, margin, lam, ess, kl = oracles.PAPER_ROWS[name]
    matrix = RewardMatrix.from_csv(oracles.PAPER_CSV)
    targets = {value: round(level, 3) for value, level in matrix.base.items()}
    targets.update(zip(("humor", "helpful", "harmless"), hhh, strict=True))
    solution = solve_dual(matrix, Palette(targets), estimator="pooled")
    assert solution.status is Status.optimal
    assert round(solution.margin, 4) == margin
    assert [round(solution.lam[value], 3) for value in ("humor", "helpful", "harmless")] == list(lam)
    assert [solution.lam[value] for value in ("diversity", "coherence", "perplexity")] == [0.0, 0.0, 0.0]
    assert round(solution.ess, 1) == ess
    assert round(solution.kl, 3) == kl


def test_unknown_value_prints_both_name_sets():
    matrix = RewardMatrix([[0.0], [1.0]], ["humor"], [0, 0])
    with pytest.raises(UserError, match=r"\{humour\}.*\{humor\}"):
        solve_dual(matrix, Palette({"humour": 0.8}))


@pytest.mark.parametrize("target", [0.8, 1.0, 2.0])
def test_json_round_trip(target):
    matrix = RewardMatrix([[0.0, 1.0], [1.0, 1.0]], ["a", "constant"], [0, 0])
    solution = solve_dual(matrix, Palette({"a": target}), estimator="pooled")
    text = json.dumps(solution.to_dict(), allow_nan=False)
    again = DualSolution.from_dict(json.loads(text))
    assert json.dumps(again.to_dict(), allow_nan=False) == text
    assert again.status is solution.status
    if solution.certificate is not None:
        assert again.certificate.verify(matrix)


def test_json_keeps_an_infinite_margin():
    matrix = RewardMatrix([[1.0], [1.0]], ["constant"], [0, 0])
    solution = solve_dual(matrix, Palette({"constant": 0.5}))
    assert DualSolution.from_dict(json.loads(json.dumps(solution.to_dict(), allow_nan=False))).margin == math.inf


def test_warm_starts_and_batches_change_nothing():
    scores_NV, ids_N = oracles.random_scores(np.random.default_rng(8))
    matrix = RewardMatrix(scores_NV, ["a", "b", "c"], ids_N)
    palettes = [Palette.from_sd(matrix, {"a": step, "b": 0.2}) for step in (0.1, 0.5, 9.0, 0.3)]
    alone = [solve_dual(matrix, palette) for palette in palettes]
    together = solve_many(matrix, palettes)
    for one, other in zip(alone, together, strict=True):
        assert one.status is other.status
        np.testing.assert_allclose(list(one.lam.values()), list(other.lam.values()), atol=1e-9)
    warm = solve_dual(matrix, palettes[0], start=alone[0].lam)
    assert warm.steps < alone[0].steps


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_useless_start_does_no_harm(estimator):
    scores_NV, ids_N = oracles.random_scores(np.random.default_rng(8))
    matrix = RewardMatrix(scores_NV, ["a", "b", "c"], ids_N)
    palette = Palette.from_sd(matrix, {"a": 0.3, "b": 0.2})
    cold = solve_dual(matrix, palette, estimator=estimator)
    far = solve_dual(matrix, palette, estimator=estimator, start={"a": 1e9, "b": 0.0, "c": 5.0})
    assert far == cold


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_newton_soon_sees_that_there_is_no_maximum(estimator):
    """g(lam) above log N, the largest KL that N rows allow, proves that the target is out of reach."""
    scores_NV, ids_N = oracles.random_scores(np.random.default_rng(9))
    problem = Problem(RewardMatrix(scores_NV, ["a", "b", "c"], ids_N), estimator)
    ascent = problem.ascend(np.array([4.0, 4.0, 4.0]))
    assert ascent.kkt_residual > 1e-9
    assert ascent.dual > np.log(len(ids_N))
    assert ascent.steps < 20


def test_importing_the_palette_imports_nothing_heavy():
    heavy = {"torch", "pandas", "pyarrow", "rich", "matplotlib"}
    code = f"import sys, mapft.palette; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("shift", [1e5, 1e6])
def test_opposite_values_with_a_shift(shift):
    """a and shift - a, with targets that mirror each other but for the rounding of the shift."""
    for seed in range(40):
        rng = np.random.default_rng(seed)
        a = rng.normal(size=200)
        matrix = RewardMatrix(np.column_stack([a, shift - a]), ["a", "b"], np.arange(200) // 4)
        x = float(np.round(rng.uniform(0.05, 0.8), 3))
        solution = solve_dual(matrix, Palette({"a": x, "b": shift - x}))
        alone = solve_dual(matrix, Palette({"a": x}))
        assert solution.status in (Status.optimal, Status.boundary)
        if solution.status is Status.optimal:
            assert solution.lam["a"] - solution.lam["b"] == pytest.approx(alone.lam["a"], abs=1e-4)
            assert max(solution.lam.values()) < 100


def test_heavy_tails_near_the_edge_are_solved():
    """Where p_lam has all but collapsed onto one row, Newton's first step is 1e26 too long."""
    for seed in range(80):
        rng = np.random.default_rng(seed)
        scores_NV = rng.normal(size=(100, 2)) ** 5
        matrix = RewardMatrix(scores_NV, ["a", "b"], np.arange(100) // 4)
        high = matrix.base["a"] + rng.uniform(0.8, 0.99) * (scores_NV[:, 0].max() - matrix.base["a"])
        palette = Palette({"a": high, "b": matrix.base["b"] - 0.1 * matrix.sd["b"]})
        solution = solve_dual(matrix, palette, estimator="pooled")
        assert solution.status is (Status.optimal if solution.margin > 0 else Status.infeasible)


@pytest.mark.parametrize("start", [{"a": math.nan, "b": 0.0}, {"a": math.inf, "b": 0.0}, {"a": 0.1}, {"a": -5.0}])
def test_a_useless_start_changes_nothing(start):
    scores_NV = np.random.default_rng(0).normal(size=(100, 2))
    matrix, palette = RewardMatrix(scores_NV, ["a", "b"], np.repeat(np.arange(25), 4)), Palette({"a": 0.3})
    expected = solve_dual(matrix, palette)
    assert solve_dual(matrix, palette, start=start).lam == pytest.approx(expected.lam, abs=1e-9)
