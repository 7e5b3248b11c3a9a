"""The paper's own scores (2312 samples, 6 values). Truth: full linear programs, KKT conditions, coordinate ascent."""

import numpy as np
import pytest
from scipy.optimize import brentq

from mapft.palette import Palette, ScoreMatrix, Status, solve_dual
from tests.palette import oracles


@pytest.fixture(scope="module")
def matrix():
    return ScoreMatrix.from_csv(oracles.PAPER_SCORES)


def paper_palette(matrix, name):
    """humor, helpful and harmless at the palette's levels, the other values at their means."""
    return Palette(
        {**matrix.base, **dict(zip(("humor", "helpful", "harmless"), oracles.PAPER_ROWS[name][0], strict=True))}
    )


def random_palettes(matrix, count, longest, seed):
    """Palettes of 1 to 6 values on the segment from the base level to a random feasible level, and beyond it."""
    rng = np.random.default_rng(seed)
    base_V = matrix.scores.mean(axis=0)
    for _ in range(count):
        level_V = rng.dirichlet(np.ones(8)) @ matrix.scores[rng.choice(len(matrix), 8)]
        target_V = base_V + rng.uniform(0.1, longest) * (level_V - base_V)
        columns = rng.choice(6, rng.integers(1, 7), replace=False)
        yield Palette({matrix.values[i]: target_V[i] for i in columns})


@pytest.mark.parametrize("name", oracles.PAPER_ROWS)
def test_the_palettes_of_the_paper(matrix, name):
    hhh, margin, lam, ess, kl = oracles.PAPER_ROWS[name]
    targets = {value: round(level, 3) for value, level in matrix.base.items()}
    targets.update(zip(("humor", "helpful", "harmless"), hhh, strict=True))
    solution = solve_dual(matrix, Palette(targets), estimator="pooled")
    assert solution.status is Status.optimal
    assert round(solution.margin, 4) == margin
    assert [round(solution.lam[value], 3) for value in ("humor", "helpful", "harmless")] == list(lam)
    assert [solution.lam[value] for value in ("diversity", "coherence", "perplexity")] == [0.0, 0.0, 0.0]
    assert round(solution.ess, 1) == ess
    assert round(solution.kl, 3) == kl


def test_300_random_feasible_palettes_meet_the_kkt_conditions(matrix):
    for palette in random_palettes(matrix, 300, 0.98, seed=0):
        solution = solve_dual(matrix, palette, estimator="pooled")
        assert solution.status is Status.optimal
        assert solution.kkt_residual <= 1e-9
        assert solution.duality_gap <= 1e-9
        for name, target in solution.targets.items():
            assert solution.predicted[name] >= target - 1e-9 * matrix.sd[name]
        assert all(lam == 0.0 for name, lam in solution.lam.items() if name not in solution.targets)


@pytest.mark.slow
def test_1000_margins_and_statuses_agree_with_the_full_program(matrix):
    infeasible = 0
    for palette in random_palettes(matrix, 1000, 9.0, seed=1):
        targets_V = np.array([palette.targets.get(name, 0.0) for name in matrix.values])
        free_V = np.array([name not in palette.targets for name in matrix.values])
        margin = oracles.full_margin(matrix.scores, matrix.prompt_ids, targets_V, "pooled", free_V)
        solution = solve_dual(matrix, palette, estimator="pooled")
        assert solution.margin == pytest.approx(margin, abs=1e-7)
        assert abs(margin) > 1e-9
        assert solution.status is (Status.optimal if margin > 0 else Status.infeasible)
        if margin < 0:
            infeasible += 1
            assert solution.certificate.verify(matrix)
    assert 400 <= infeasible <= 600


def coordinate_ascent(z_NV, target_V, rounds):
    """lam and the violation after each round of theorem 5: one value after the other solves its own dual, in sd."""

    def gap(lam_V, i):
        weights_N = np.exp(z_NV @ lam_V - (z_NV @ lam_V).max())
        return weights_N @ z_NV[:, i] / weights_N.sum() - target_V[i]

    lam_V, violations = np.zeros(len(target_V)), []
    for _ in range(rounds):
        for i in range(len(lam_V)):
            at = lambda x, i=i: gap(np.where(np.arange(len(lam_V)) == i, x, lam_V), i)  # noqa: E731
            lam_V[i] = 0.0 if at(0.0) >= 0 else brentq(at, 0.0, 500.0, xtol=1e-13)
        violations.append(max(abs(min(lam_V[i], gap(lam_V, i))) for i in range(len(lam_V))))
    return lam_V, violations


@pytest.mark.parametrize("name", ["hhh_50", "hhh_70"])
def test_coordinate_ascent_reaches_the_same_solution(matrix, name):
    palette = paper_palette(matrix, name)
    sd_V = np.array(list(matrix.sd.values()))
    z_NV = (matrix.scores - list(matrix.base.values())) / sd_V
    target_V = (np.array(list(palette.targets.values())) - list(matrix.base.values())) / sd_V
    lam_V, violations = coordinate_ascent(z_NV, target_V, 15)
    expected = solve_dual(matrix, palette, estimator="pooled").lam
    np.testing.assert_allclose(lam_V / sd_V, list(expected.values()), atol=2e-4)
    assert round(violations[0], 2) == {"hhh_50": 0.12, "hhh_70": 0.71}[name]
    assert violations[-1] < 1e-5
