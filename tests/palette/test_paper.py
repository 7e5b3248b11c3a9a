"""The promises on the paper's own scores (2312 samples, 6 values). Truth: the full linear program, KKT conditions."""

import numpy as np
import pytest

from mapft.palette import Palette, RewardMatrix, Status, solve_dual, solve_many, solve_sequential
from tests import oracles

pytestmark = oracles.needs_paper_data()


@pytest.fixture(scope="module")
def matrix():
    return RewardMatrix.from_csv(oracles.PAPER_CSV)


def random_palettes(matrix, count, longest, seed):
    """Palettes of 1 to 6 values on the way from the base level to a random attainable level, and beyond it."""
    rng = np.random.default_rng(seed)
    base_V = matrix.scores.mean(axis=0)
    for _ in range(count):
        level_V = rng.dirichlet(np.ones(8)) @ matrix.scores[rng.choice(len(matrix), 8)]
        target_V = base_V + rng.uniform(0.1, longest) * (level_V - base_V)
        chosen = rng.choice(6, rng.integers(1, 7), replace=False)
        yield Palette({matrix.values[i]: target_V[i] for i in chosen})


def test_300_random_feasible_palettes_meet_kkt_and_gap(matrix):
    solutions = solve_many(matrix, list(random_palettes(matrix, 300, 0.98, seed=0)), estimator="pooled")
    for solution in solutions:
        assert solution.status is Status.optimal
        assert solution.kkt_residual <= 1e-9
        assert solution.duality_gap <= 1e-9
        for name, target in solution.targets.items():
            assert solution.realized[name] >= target - 1e-9 * matrix.sd[name]
        assert all(lam == 0.0 for name, lam in solution.lam.items() if name not in solution.targets)


@pytest.mark.slow
def test_1000_verdicts_agree_with_the_full_program(matrix):
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


def test_sequential_mode_on_the_papers_palettes(matrix):
    for hhh, *_ in oracles.PAPER_ROWS.values():
        palette = Palette({**matrix.base, **dict(zip(("humor", "helpful", "harmless"), hhh, strict=True))})
        together = solve_dual(matrix, palette, estimator="pooled")
        in_turn = solve_sequential(matrix, palette, estimator="pooled")
        assert in_turn.lam == pytest.approx(together.lam, abs=1e-6)
