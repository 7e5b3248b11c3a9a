"""The largest feasible level of a value. Truth: the status of palettes at it, a closed form, and hand arithmetic."""

import math

import numpy as np
import pytest

from mapft.palette import ESTIMATORS, Palette, ScoreMatrix, Status, largest_levels, solve_dual
from mapft.utils.errors import UserError


def scores(values: int = 3) -> ScoreMatrix:
    rng = np.random.default_rng(5)
    mixing = np.eye(values) - 0.3 * (1 - np.eye(values))
    return ScoreMatrix(rng.normal(size=(200, values)) @ mixing, list("abc")[:values], np.arange(200) // 8)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_target_is_feasible_below_its_limit_and_infeasible_above(estimator):
    matrix, palette = scores(), Palette({"a": 0.4, "b": 0.3})
    limits = largest_levels(matrix, palette, estimator=estimator)
    for name in matrix.values:  # c is free; its limit holds the targets of a and b
        for offset, status in ((-0.01, Status.optimal), (0.01, Status.infeasible)):
            moved = Palette({**palette.targets, name: limits[name] + offset})
            assert solve_dual(matrix, moved, estimator=estimator).status is status


def test_one_value_is_limited_by_its_best_sample():
    matrix = ScoreMatrix([[0.0], [1.0], [3.0]], ["a"], [0, 1, 2])
    assert largest_levels(matrix, Palette({"a": 2.0}), estimator="pooled")["a"] == pytest.approx(3.0)


def test_of_opposite_values_one_limits_the_other():
    matrix = ScoreMatrix([[0.0, 0.0], [1.0, -1.0], [2.0, -2.0]], ["a", "b"], [0, 1, 2])
    limits = largest_levels(matrix, Palette({"a": 0.5, "b": -1.5}), estimator="pooled")
    assert limits == pytest.approx({"a": 1.5, "b": -0.5})


def test_an_infeasible_palette_has_the_limits_that_do_not_depend_on_its_conflict():
    matrix = scores()
    best = matrix.scores.max()
    limits = largest_levels(matrix, Palette({"a": 3 * best, "b": 0.2}))
    assert math.isnan(limits["b"])  # the target of a is infeasible whatever b is
    assert math.isnan(limits["c"])
    assert limits["a"] == pytest.approx(largest_levels(matrix, Palette({"b": 0.2}))["a"])


def test_a_constant_value_has_its_own_level_as_limit():
    constant = ScoreMatrix([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0]], ["a", "b"], [0, 1, 2])
    assert largest_levels(constant, Palette({"b": 1.5}), estimator="pooled") == pytest.approx({"a": 1.0, "b": 2.0})
    limits = largest_levels(constant, Palette({"a": 1.5, "b": 1.5}), estimator="pooled")
    assert limits["a"] == pytest.approx(1.0)
    assert math.isnan(limits["b"])


def test_an_unknown_value():
    with pytest.raises(UserError, match="has no value d"):
        largest_levels(scores(), Palette({"d": 1.0}))
