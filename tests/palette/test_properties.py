"""Properties that hold for every matrix. Truth: symmetries of the problem, the full linear program."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mapft.palette import ESTIMATORS, Palette, ScoreMatrix, Status, solve_dual
from tests.palette import oracles

NAMES = ("a", "b", "c")
seeds = st.integers(0, 2**32 - 1)
estimators = st.sampled_from(ESTIMATORS)


def world(seed):
    """A random matrix with a palette between half an sd below the base level and the boundary."""
    rng = np.random.default_rng(seed)
    scores_NV, ids_N = oracles.random_scores(rng, prompts=12, samples=5, between=0.3)
    targets_V = scores_NV.mean(axis=0) + rng.uniform(-0.5, 0.5, 3) * scores_NV.std(axis=0)
    return scores_NV, ids_N, targets_V


def solved(scores_NV, ids_N, targets_V, estimator, names=NAMES):
    matrix = ScoreMatrix(scores_NV, names, ids_N)
    return solve_dual(matrix, Palette(dict(zip(names, targets_V, strict=True))), estimator=estimator)


@settings(max_examples=60, deadline=None)
@given(seeds, estimators, st.floats(-1e6, 1e6), st.sampled_from([1e-6, 1e-3, 1.0, 1e3, 1e6]))
@example(329923, "per_prompt", 613786.0, 1e-6)
def test_shift_leaves_lam_and_scale_divides_it(seed, estimator, shift, scale):
    scores_NV, ids_N, targets_V = world(seed)
    plain = solved(scores_NV, ids_N, targets_V, estimator)
    scaled_V, moved_V = np.array([scale, 1.0, 1.0]), np.array([scale, 1.0, 1.0]) * shift
    other = solved(scores_NV * scaled_V + moved_V, ids_N, targets_V * scaled_V + moved_V, estimator)
    if abs(plain.margin) < 1e-6:
        return
    assert other.status is plain.status
    assert other.margin == pytest.approx(plain.margin, rel=1e-6, abs=1e-7)
    if plain.status is Status.optimal:
        lam_V = np.array(list(plain.lam.values())) * scores_NV.std(axis=0)
        other_V = np.array(list(other.lam.values())) * scores_NV.std(axis=0) * scaled_V
        np.testing.assert_allclose(other_V, lam_V, rtol=1e-5, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(seeds, estimators, st.permutations(range(3)))
def test_order_of_values_and_of_rows_does_not_matter(seed, estimator, order):
    scores_NV, ids_N, targets_V = world(seed)
    rows = np.random.default_rng(seed).permutation(len(ids_N))
    plain = solved(scores_NV, ids_N, targets_V, estimator)
    names = [NAMES[i] for i in order]
    other = solved(scores_NV[rows][:, order], ids_N[rows], targets_V[order], estimator, names)
    assert other.status is plain.status
    if plain.status is Status.optimal:
        for name in NAMES:
            assert other.lam[name] == pytest.approx(plain.lam[name], rel=1e-6, abs=1e-7)


@settings(max_examples=60, deadline=None)
@given(seeds, estimators, st.integers(0, 2), st.floats(0.001, 0.5))
def test_raising_a_target_never_lowers_its_multiplier(seed, estimator, which, step):
    scores_NV, ids_N, targets_V = world(seed)
    higher_V = targets_V + step * scores_NV.std(axis=0) * (np.arange(3) == which)
    low, high = solved(scores_NV, ids_N, targets_V, estimator), solved(scores_NV, ids_N, higher_V, estimator)
    if high.status is Status.optimal:
        assert low.status is Status.optimal
        assert high.lam[NAMES[which]] >= low.lam[NAMES[which]] - 1e-7
        assert high.kl >= low.kl - 1e-9


@settings(max_examples=100, deadline=None)
@given(seeds, estimators, st.floats(0.0, 4.0))
def test_optimal_palettes_are_met_and_infeasible_ones_agree_with_the_program(seed, estimator, stretch):
    scores_NV, ids_N, targets_V = world(seed)
    targets_V = scores_NV.mean(axis=0) + stretch * (targets_V - scores_NV.mean(axis=0))
    solution = solved(scores_NV, ids_N, targets_V, estimator)
    margin = oracles.full_margin(scores_NV, ids_N, targets_V, estimator)
    if abs(margin) < 1e-6:
        return
    assert (solution.status is Status.infeasible) == (margin < 0)
    if margin > 0:
        predicted_V = np.array(list(solution.predicted.values()))
        assert (predicted_V >= targets_V - 1e-9 * scores_NV.std(axis=0)).all()
        assert solution.kkt_residual <= 1e-9
        assert solution.duality_gap <= 1e-9
        assert solution.kl >= 0
