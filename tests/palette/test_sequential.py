"""Sequential multipliers. Truth: the simultaneous solution, itself checked against a general solver in test_dual.py."""

import numpy as np
import pytest

from mapft.errors import UserError
from mapft.palette import ESTIMATORS, DualSolution, Palette, RewardMatrix, Status, solve_dual, solve_sequential
from tests import oracles

NAMES = ("a", "b", "c", "d")


def random_problem(seed):
    """Scores of 2 to 4 values with correlations up to about .7, and targets that a random lam >= 0 realizes."""
    rng = np.random.default_rng(seed)
    values = int(rng.integers(2, 5))
    ids_N = np.repeat(np.arange(40), 5)
    common = rng.normal(size=(200, 1)) * rng.uniform(-0.8, 0.8, values)
    scores_NV = common + rng.normal(size=(40, values))[ids_N] * 0.5 + rng.normal(size=(200, values))
    lam_V = rng.exponential(0.7, values) * (rng.random(values) < 0.8)
    weights_N = np.exp(scores_NV @ lam_V)
    level_V = weights_N @ scores_NV / weights_N.sum() - 0.1 * (lam_V == 0)
    matrix = RewardMatrix(scores_NV, NAMES[:values], ids_N)
    return matrix, Palette(dict(zip(NAMES, level_V, strict=False)))


def test_reaches_the_simultaneous_solution_on_100_random_problems():
    must_decrease = 0
    for seed in range(100):
        matrix, palette = random_problem(seed)
        together = solve_dual(matrix, palette, estimator="pooled")
        in_turn = solve_sequential(matrix, palette, estimator="pooled")
        first_round = solve_sequential(matrix, palette, estimator="pooled", rounds=1)
        assert in_turn.status is Status.optimal
        for name in palette.targets:
            assert in_turn.lam[name] == pytest.approx(together.lam[name], abs=1e-6)
        must_decrease += any(first_round.lam[n] > together.lam[n] + 1e-3 for n in palette.targets)
    assert must_decrease >= 20  # the literal theorem, whose multipliers never come down, fails on these


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_any_estimator_and_any_order(estimator):
    scores_NV, ids_N = oracles.random_scores(np.random.default_rng(0), values=2, between=0.2)
    matrix = RewardMatrix(scores_NV, NAMES[:2], ids_N)
    palette = Palette.from_sd(matrix, {"a": 0.2, "b": 0.1})
    together = solve_dual(matrix, palette, estimator=estimator)
    for order in (["a", "b"], ["b", "a"]):
        in_turn = solve_sequential(matrix, palette, order=order, estimator=estimator)
        assert in_turn.lam == pytest.approx(together.lam, abs=1e-6)
        assert in_turn.kl == pytest.approx(together.kl, abs=1e-7)


def test_each_stage_meets_its_own_target_and_the_trace_tells_what_is_missing():
    matrix, palette = random_problem(3)
    rounds = [solve_sequential(matrix, palette, estimator="pooled", rounds=n) for n in (1, 2, 3)]
    last = list(palette.targets)[-1]
    for solution in rounds:
        slack = (solution.realized[last] - palette.targets[last]) / matrix.sd[last]
        assert min(solution.lam[last], slack) == pytest.approx(0.0, abs=1e-9)
        for name, missing in solution.trace[-1].items():
            slack = (solution.realized[name] - palette.targets[name]) / matrix.sd[name]
            assert missing == pytest.approx(min(solution.lam[name] * matrix.sd[name], slack), abs=1e-9)
    assert [solution.steps for solution in rounds] == [1, 2, 3]
    assert rounds[2].trace[:2] == rounds[1].trace
    largest = [max(map(abs, solution.trace[-1].values())) for solution in rounds]
    assert largest[0] > largest[1] > largest[2] > 1e-9
    assert rounds[0].status is Status.unfinished


def test_unattainable_palettes_come_with_their_certificate():
    matrix, palette = random_problem(4)
    beyond = Palette({name: matrix.column(name).max() + 1 for name in palette.targets})
    solution = solve_sequential(matrix, beyond, estimator="pooled")
    assert solution.status is Status.infeasible
    assert solution.certificate.verify(matrix)


def test_the_trace_survives_json():
    matrix, palette = random_problem(5)
    solution = solve_sequential(matrix, palette, estimator="pooled")
    assert DualSolution.from_dict(solution.to_dict()) == solution


def test_mistakes_are_one_sentence():
    matrix, palette = random_problem(6)
    with pytest.raises(UserError, match="the order visits"):
        solve_sequential(matrix, palette, order=["a"], estimator="pooled")
    with pytest.raises(UserError, match="rounds is 0"):
        solve_sequential(matrix, palette, rounds=0, estimator="pooled")
