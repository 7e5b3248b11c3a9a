"""Adjusting a palette. Truth: hand geometry, one full linear program, bisection over full programs."""

import numpy as np
import pytest

from mapft.palette import ESTIMATORS, Palette, ScoreMatrix, Status, adjust, solve_dual
from mapft.palette.nearest import _nearest_l1, _nearest_l2
from mapft.palette.problem import Problem
from mapft.utils.errors import UserError
from tests.palette import oracles


def triangle():
    """Many copies of (0,1), (1,0), (.2,.2): the feasible levels end at a + b = 1, the base level is (.4, .4)."""
    scores = np.tile([[0.0, 1.0], [1.0, 0.0], [0.2, 0.2]], (100, 1))
    return ScoreMatrix(scores, ["a", "b"], np.zeros(300, int))


def test_interpolation_ends_just_inside_the_boundary():
    """From (.4,.4) to (.6,.6) the boundary a + b = 1 is at half the distance; the new palette is at 99 % of that."""
    adjusted = adjust(triangle(), Palette({"a": 0.6, "b": 0.6}), estimator="pooled")
    assert adjusted.new.targets == pytest.approx({"a": 0.4 + 0.99 * 0.5 * 0.2, "b": 0.4 + 0.99 * 0.5 * 0.2}, abs=1e-9)
    assert adjusted.solution.status is Status.optimal
    assert adjusted.binding == ("a", "b")
    assert adjusted.base == pytest.approx({"a": 0.4, "b": 0.4})


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("floor", [20.0, 60.0])
def test_interpolation_ends_at_the_floor_on_the_effective_sample_size(estimator, floor):
    scores_NV, ids_N = oracles.random_scores(np.random.default_rng(1), prompts=30, samples=8, between=0.2)
    matrix = ScoreMatrix(scores_NV, ["a", "b", "c"], ids_N)
    adjusted = adjust(matrix, Palette.of(matrix, sd={"a": 4.0, "b": 4.0}), floor_ess=floor, estimator=estimator)
    assert adjusted.solution.ess >= floor * (1 - 1e-6)
    if estimator == "pooled":
        assert adjusted.solution.ess == pytest.approx(floor, rel=1e-5)
    share = {n: (adjusted.new.targets[n] - matrix.base[n]) / (4 * matrix.sd[n]) for n in ("a", "b")}
    assert share["a"] == pytest.approx(share["b"])
    assert 0 < share["a"] < 1


def test_a_feasible_palette_is_returned_unchanged():
    palette = Palette({"a": 0.5})
    adjusted = adjust(triangle(), palette, estimator="pooled")
    assert adjusted.new == palette
    assert adjusted.binding == ()


def test_targets_below_the_base_level_are_never_raised():
    adjusted = adjust(triangle(), Palette({"a": 2.0, "b": 0.1}), estimator="pooled")
    assert adjusted.new.targets["b"] == 0.1
    assert 0.4 < adjusted.new.targets["a"] < 1.0
    assert solve_dual(triangle(), adjusted.new, estimator="pooled").status is Status.optimal


def test_the_target_of_a_constant_value_becomes_its_level():
    scores = np.column_stack([np.tile([0.0, 1.0], 50), np.full(100, 3.0)])
    matrix = ScoreMatrix(scores, ["a", "b"], np.repeat(range(10), 10))
    adjusted = adjust(matrix, Palette({"a": 0.7, "b": 4.0}))
    assert adjusted.new.targets["b"] == 3.0
    assert adjusted.new.targets["a"] == 0.7
    assert adjusted.binding == ("b",)


def test_priority_by_hand():
    """First a: its target .8 stays. Then b moves 99 % of the distance from its level there to the line a + b = 1."""
    adjusted = adjust(triangle(), Palette({"a": 0.8, "b": 0.6}), "priority", estimator="pooled")
    level_of_b = solve_dual(triangle(), Palette({"a": 0.8}), estimator="pooled").predicted["b"]
    assert adjusted.new.targets["a"] == 0.8
    assert adjusted.new.targets["b"] == pytest.approx(level_of_b + 0.99 * (0.2 - level_of_b), abs=1e-8)
    other_order = adjust(triangle(), Palette({"a": 0.8, "b": 0.6}), "priority", order=["b", "a"], estimator="pooled")
    assert other_order.new.targets["b"] == 0.6
    assert other_order.new.targets["a"] < 0.4


def test_priority_lowers_the_first_value_to_its_own_largest_level():
    adjusted = adjust(triangle(), Palette({"a": 5.0, "b": 0.3}), "priority", estimator="pooled")
    assert adjusted.new.targets["a"] == pytest.approx(0.4 + 0.99 * 0.6, abs=1e-8)
    assert adjusted.solution.status is Status.optimal


def test_priority_where_the_predicted_levels_are_outside_the_hull_of_earlier_programs():
    scores_NV, ids_N = oracles.random_scores(np.random.default_rng(29), prompts=15, samples=4, values=5, between=0.2)
    matrix = ScoreMatrix(scores_NV, list("abcde"), ids_N)
    palette = Palette.of(matrix, sd=dict.fromkeys("abcde", 0.8))
    adjusted = adjust(matrix, palette, "priority", floor_ess=5, estimator="per_prompt")
    assert adjusted.solution.status is Status.optimal


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_least_change_by_hand(norm):
    """From (.9, .5) the boundary a + b = 1 is at the L1 distance .4; its nearest point in L2 is (.7, .3).

    With four times the cost for b, L1 lowers a alone by .4, and L2 lowers a by .4 * 4/5 and b by .4 * 1/5. Both values
    have the same sd.
    """
    palette = Palette({"a": 0.9, "b": 0.5})
    weighted = adjust(
        triangle(), palette, "least_change", norm=norm, weights={"b": 4.0}, estimator="pooled"
    ).new.targets
    nearest = {"l1": (0.5, 0.5), "l2": (0.58, 0.42)}[norm]
    for name, level in zip("ab", nearest, strict=True):
        assert weighted[name] == pytest.approx(0.4 + 0.99 * (level - 0.4), abs=1e-6)
    if norm == "l2":
        equal = adjust(triangle(), palette, "least_change", norm="l2", estimator="pooled").new.targets
        assert equal["a"] == pytest.approx(0.4 + 0.99 * 0.3, abs=1e-6)
        assert equal["b"] == pytest.approx(0.3, abs=1e-6)  # below the base level .4, so it stays


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_least_change_against_a_full_program(estimator, norm):
    """The distance from the old to the nearest feasible palette, by one program over all rows (SLSQP for L2)."""
    scores_NV, ids_N = oracles.random_scores(np.random.default_rng(3), prompts=12, samples=4, between=0.2)
    problem = Problem(ScoreMatrix(scores_NV, ["a", "b", "c"], ids_N), estimator)
    target_V, cost_V = np.array([1.2, 1.5, 0.8]), np.array([1.0, 2.0, 0.5])
    nearest_V = (_nearest_l1 if norm == "l1" else _nearest_l2)(problem.feasible_set, target_V, cost_V)
    assert oracles.full_margin(
        scores_NV, ids_N, nearest_V * scores_NV.std(axis=0) + scores_NV.mean(axis=0), estimator
    ) == pytest.approx(0.0, abs=1e-7)
    power = 1 if norm == "l1" else 2
    distance = cost_V @ (target_V - nearest_V) ** power
    best = oracles.least_change(scores_NV, ids_N, target_V, cost_V, estimator, power)
    assert distance == pytest.approx(best, rel=1e-5)


@pytest.mark.parametrize("method", ["interpolate", "priority", "least_change"])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_every_method_gives_a_feasible_palette_with_enough_effective_samples_and_raises_no_target(method, estimator):
    for seed in range(5):
        scores_NV, ids_N = oracles.random_scores(np.random.default_rng(seed), prompts=30, samples=6, between=0.3)
        matrix = ScoreMatrix(scores_NV, ["a", "b", "c"], ids_N)
        palette = Palette.of(matrix, sd={"a": 1.5, "b": 1.0, "c": -0.3})
        adjusted = adjust(matrix, palette, method, floor_ess=40, estimator=estimator)
        assert adjusted.new != palette
        assert adjusted.solution.status is Status.optimal
        assert adjusted.solution.ess >= 40 * (1 - 1e-6)
        assert all(adjusted.new.targets[name] <= palette.targets[name] + 1e-12 for name in palette.targets)
        assert set(adjusted.binding) <= set(palette.targets)
        assert adjusted.binding


def test_invalid_options_are_refused():
    palette = Palette({"a": 0.6})
    for options, sentence in (
        ({"floor_ess": 300}, "floor_ess is 300, but"),
        ({"method": "guess"}, "method 'guess' is unknown"),
        ({"method": "least_change", "norm": "l3"}, "norm 'l3'"),
        ({"method": "priority", "order": ["a", "b"]}, r"order is \{a, b\}"),
        ({"method": "least_change", "weights": {"b": 1.0}}, "must be positive numbers for values of the palette"),
        ({"method": "least_change", "weights": {"a": 0.0}}, "must be positive numbers"),
    ):
        with pytest.raises(UserError, match=sentence):
            adjust(triangle(), palette, estimator="pooled", **options)


def test_on_the_boundary_the_binding_values_are_named():
    matrix = ScoreMatrix(np.tile([[0.0, 1.0], [1.0, 0.0], [0.2, 0.2]], (100, 1)), ["a", "b"], np.zeros(300, int))
    for target in (0.5, 1e9):
        adjustment = adjust(matrix, Palette({"a": target, "b": target}), estimator="pooled")
        assert adjustment.binding == ("a", "b")
        assert adjustment.solution.status is Status.optimal
        assert adjustment.new.targets["a"] == pytest.approx(0.5, abs=0.01)


def test_extreme_targets_are_adjusted():
    rng = np.random.default_rng(1)
    matrix = ScoreMatrix(rng.normal(size=(300, 3)), list("abc"), np.arange(300) // 4)
    requested = Palette({"a": 1e8, "b": 3.3e7, "c": 0.1})
    adjustment = adjust(matrix, requested, "least_change", norm="l2")
    assert adjustment.solution.status is Status.optimal
    assert all(adjustment.new.targets[name] <= requested.targets[name] for name in "abc")


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_interpolation_agrees_with_bisection_over_full_programs(estimator):
    """rho by bisection on the margin of one linear program over all rows."""
    for seed in range(5):
        rng = np.random.default_rng(seed)
        scores_NV, ids_N = oracles.random_scores(rng, prompts=20, samples=4, values=3, between=0.2)
        matrix = ScoreMatrix(scores_NV, list("abc"), ids_N)
        base_V, along_V = scores_NV.mean(axis=0), rng.uniform(3, 6, 3) * scores_NV.std(axis=0)
        low, high = 0.0, 1.0
        for _ in range(40):
            middle = (low + high) / 2
            margin = oracles.full_margin(scores_NV, ids_N, base_V + middle * along_V, estimator)
            low, high = (middle, high) if margin > 0 else (low, middle)
        requested = Palette(dict(zip("abc", base_V + along_V, strict=True)))
        new = adjust(matrix, requested, floor_ess=1, estimator=estimator).new
        share_V = (np.array([new.targets[name] for name in "abc"]) - base_V) / along_V
        np.testing.assert_allclose(share_V, share_V[0])
        assert 0.98 * low <= share_V[0] <= low
