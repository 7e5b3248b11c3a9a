"""Adjusting a palette. Truth: hand geometry, one full linear program, bisection over full programs."""

import numpy as np
import pytest

from mapft.errors import UserError
from mapft.palette import ESTIMATORS, Palette, RewardMatrix, Status, adjust, solve_dual
from tests import oracles


def triangle():
    """Many copies of (0,1), (1,0), (.2,.2): the edge of what is attainable is a + b = 1, the base level (.4, .4)."""
    scores = np.tile([[0.0, 1.0], [1.0, 0.0], [0.2, 0.2]], (100, 1))
    return RewardMatrix(scores, ["a", "b"], np.zeros(300, int))


def test_interpolation_ends_just_inside_the_edge():
    """From (.4,.4) towards (.6,.6) the edge a + b = 1 lies half way; the new palette stops at 99 % of that."""
    adjusted = adjust(triangle(), Palette({"a": 0.6, "b": 0.6}), estimator="pooled")
    assert adjusted.new.targets == pytest.approx({"a": 0.4 + 0.99 * 0.5 * 0.2, "b": 0.4 + 0.99 * 0.5 * 0.2}, abs=1e-9)
    assert adjusted.solution.status is Status.optimal
    assert adjusted.binding == ("a", "b")
    assert adjusted.changed
    assert adjusted.base == pytest.approx({"a": 0.4, "b": 0.4})


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("floor", [20.0, 60.0])
def test_the_floor_on_the_effective_sample_size_decides_how_far(estimator, floor):
    scores_NV, ids_N = oracles.random_scores(np.random.default_rng(1), prompts=30, samples=8, between=0.2)
    matrix = RewardMatrix(scores_NV, ["a", "b", "c"], ids_N)
    adjusted = adjust(matrix, Palette.from_sd(matrix, {"a": 4.0, "b": 4.0}), floor_ess=floor, estimator=estimator)
    assert adjusted.solution.ess >= floor * (1 - 1e-6)
    if estimator == "pooled":
        assert adjusted.solution.ess == pytest.approx(floor, rel=1e-5)
    share = {n: (adjusted.new.targets[n] - matrix.base[n]) / (4 * matrix.sd[n]) for n in ("a", "b")}
    assert share["a"] == pytest.approx(share["b"])
    assert 0 < share["a"] < 1


def test_an_attainable_palette_is_returned_unchanged():
    palette = Palette({"a": 0.5})
    adjusted = adjust(triangle(), palette, estimator="pooled")
    assert adjusted.new == palette
    assert not adjusted.changed
    assert adjusted.binding == ()


def test_targets_below_the_base_level_are_never_raised():
    adjusted = adjust(triangle(), Palette({"a": 2.0, "b": 0.1}), estimator="pooled")
    assert adjusted.new.targets["b"] == 0.1
    assert 0.4 < adjusted.new.targets["a"] < 1.0
    assert solve_dual(triangle(), adjusted.new, estimator="pooled").status is Status.optimal


def test_a_constant_value_is_set_to_its_level_and_the_rest_adjusted():
    scores = np.column_stack([np.tile([0.0, 1.0], 50), np.full(100, 3.0)])
    matrix = RewardMatrix(scores, ["a", "b"], np.repeat(range(10), 10))
    adjusted = adjust(matrix, Palette({"a": 0.7, "b": 4.0}))
    assert adjusted.new.targets["b"] == 3.0
    assert adjusted.new.targets["a"] == 0.7
    assert adjusted.binding == ("b",)


def test_mistakes_are_one_sentence():
    palette = Palette({"a": 0.6})
    with pytest.raises(UserError, match="floor_ess is 300, but"):
        adjust(triangle(), palette, floor_ess=300, estimator="pooled")
    with pytest.raises(UserError, match="called 'guess'"):
        adjust(triangle(), palette, how="guess", estimator="pooled")
