"""The three estimators of E_x log Z. Truth: loops over the formulas (oracles.py), finite differences."""

import numpy as np
import pytest

from mapft.palette import ESTIMATORS, Palette, ScoreMatrix, solve_dual
from mapft.palette.estimators import partition_of
from mapft.utils.errors import UserError
from tests.palette import oracles

RAGGED = np.repeat(np.arange(30), np.random.default_rng(1).integers(2, 9, 30))


def ragged_matrix(shuffled=True):
    rng = np.random.default_rng(2)
    ids_N = rng.permutation(RAGGED) if shuffled else RAGGED
    scores_NV = rng.normal(size=(30, 3))[ids_N] + rng.normal(size=(len(ids_N), 3)) ** 3 + [5.0, 0.0, -90.0]
    return ScoreMatrix(scores_NV, ["a", "b", "c"], ids_N)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_log_partition_of_ragged_shuffled_groups_equals_the_naive_loop(estimator):
    matrix = ragged_matrix()
    partition, frame = partition_of(matrix, estimator)
    for lam_V in np.random.default_rng(3).exponential(size=(5, 3)):
        expected = oracles.log_partition(lam_V / frame.scale_V, matrix.scores, matrix.prompt_ids, estimator)
        shift = lam_V / frame.scale_V @ frame.base_V
        assert partition.tilt(lam_V).log_z == pytest.approx(expected - shift, abs=1e-11)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_mean_and_covariance_are_the_first_two_derivatives(estimator):
    partition, _ = partition_of(ragged_matrix(), estimator)
    lam_V = np.array([0.3, 1.1, 0.7])
    tilt = partition.tilt(lam_V)
    np.testing.assert_allclose(
        partition.mean(tilt), oracles.gradient(lambda at_V: partition.tilt(at_V).log_z, lam_V), rtol=1e-8, atol=1e-9
    )
    np.testing.assert_allclose(
        partition.covariance(tilt),
        oracles.gradient(lambda at_V: partition.mean(partition.tilt(at_V)), lam_V),
        rtol=1e-7,
        atol=1e-9,
    )
    assert tilt.weights_N.sum() == pytest.approx(1.0)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_extreme_point_is_the_limit_of_the_tilt(estimator):
    partition, _ = partition_of(ragged_matrix(), estimator)
    direction_V = np.array([1.0, 0.2, 0.5])
    limit = partition.tilt(1e7 * direction_V).log_z / 1e7
    assert direction_V @ partition.extreme_points(direction_V)[0] == pytest.approx(limit, rel=1e-5)


def test_huge_multipliers_do_not_overflow():
    for estimator in ESTIMATORS:
        partition, _ = partition_of(ragged_matrix(), estimator)
        assert np.isfinite(partition.tilt(np.full(3, 1e8)).log_z)


@pytest.mark.parametrize("estimator", ["centered", "per_prompt"])
def test_prompts_with_a_single_sample_are_refused(estimator):
    matrix = ScoreMatrix([[0.0], [1.0], [2.0]], ["a"], [0, 0, 1])
    with pytest.raises(UserError, match=rf"1 of 2 prompts have one sample only, but the {estimator} estimator"):
        solve_dual(matrix, Palette({"a": 1.1}), estimator=estimator)


def test_the_default_is_centered_with_two_samples_else_pooled_with_a_warning():
    palette = Palette({"a": 1.1})
    pairs = ScoreMatrix([[0.0], [1.0], [2.0], [1.0]], ["a"], [0, 0, 1, 1])
    assert solve_dual(pairs, palette).estimator == "centered"
    single = ScoreMatrix([[0.0], [1.0], [2.0]], ["a"], [0, 0, 1])
    with pytest.warns(UserWarning, match="pooled estimator. It may re-weight prompts"):
        assert solve_dual(single, palette).estimator == "pooled"


def test_an_unknown_estimator_is_refused():
    with pytest.raises(UserError, match="estimator 'median' is unknown"):
        solve_dual(ragged_matrix(), Palette({"a": 0.0}), estimator="median")
