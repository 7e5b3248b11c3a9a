"""Adjusting a palette. Truth: hand geometry, one full linear program, bisection over full programs."""

import numpy as np
import pytest

from mapft.errors import UserError
from mapft.palette import ESTIMATORS, Palette, RewardMatrix, Status, adjust, solve_dual
from mapft.palette.nearest import _nearest_l1, _nearest_l2
from mapft.palette.problem import Problem
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


def test_priority_by_hand():
    """a first: its target .8 is kept, then b goes 99 % of the way from its level there to the edge a + b = 1."""
    adjusted = adjust(triangle(), Palette({"a": 0.8, "b": 0.6}), "priority", estimator="pooled")
    level_of_b = solve_dual(triangle(), Palette({"a": 0.8}), estimator="pooled").realized["b"]
    assert adjusted.new.targets["a"] == 0.8
    assert adjusted.new.targets["b"] == pytest.approx(level_of_b + 0.99 * (0.2 - level_of_b), abs=1e-8)
    other_order = adjust(triangle(), Palette({"a": 0.8, "b": 0.6}), "priority", order=["b", "a"], estimator="pooled")
    assert other_order.new.targets["b"] == 0.6
    assert other_order.new.targets["a"] < 0.4


def test_priority_caps_the_first_value_at_what_it_alone_can_reach():
    adjusted = adjust(triangle(), Palette({"a": 5.0, "b": 0.3}), "priority", estimator="pooled")
    assert adjusted.new.targets["a"] == pytest.approx(0.4 + 0.99 * 0.6, abs=1e-8)
    assert adjusted.solution.status is Status.optimal


def test_priority_when_the_levels_met_so_far_lie_outside_the_points_of_earlier_programs():
    scores_NV, ids_N = oracles.random_scores(np.random.default_rng(29), prompts=15, samples=4, values=5, between=0.2)
    matrix = RewardMatrix(scores_NV, list("abcde"), ids_N)
    palette = Palette.from_sd(matrix, dict.fromkeys("abcde", 0.8))
    adjusted = adjust(matrix, palette, "priority", floor_ess=5, estimator="per_prompt")
    assert adjusted.solution.status is Status.optimal


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_least_change_by_hand(norm):
    """From (.9, .5) the edge a + b = 1 is .4 away along any path (L1); its nearest point (L2) is (.7, .3).

    With b four times as dear, L1 takes all from a, and L2 gives .4 * 4/5 and .4 * 1/5. (Both values have one sd.)
    """
    palette = Palette({"a": 0.9, "b": 0.5})
    dear = adjust(triangle(), palette, "least_change", norm=norm, weights={"b": 4.0}, estimator="pooled").new.targets
    nearest = {"l1": (0.5, 0.5), "l2": (0.58, 0.42)}[norm]
    for name, level in zip("ab", nearest, strict=True):
        assert dear[name] == pytest.approx(0.4 + 0.99 * (level - 0.4), abs=1e-6)
    if norm == "l2":
        equal = adjust(triangle(), palette, "least_change", norm="l2", estimator="pooled").new.targets
        assert equal["a"] == pytest.approx(0.4 + 0.99 * 0.3, abs=1e-6)
        assert equal["b"] == pytest.approx(0.3, abs=1e-6)  # below the base level .4, so not drawn back


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_least_change_against_a_full_program(estimator, norm):
    """The distance from the old to the nearest attainable palette, by one program over all rows (SLSQP for L2)."""
    scores_NV, ids_N = oracles.random_scores(np.random.default_rng(3), prompts=12, samples=4, between=0.2)
    problem = Problem(RewardMatrix(scores_NV, ["a", "b", "c"], ids_N), estimator)
    target_V, cost_V = np.array([1.2, 1.5, 0.8]), np.array([1.0, 2.0, 0.5])
    nearest_V = (_nearest_l1 if norm == "l1" else _nearest_l2)(problem.attainable, target_V, cost_V)
    assert oracles.full_margin(
        scores_NV, ids_N, nearest_V * scores_NV.std(axis=0) + scores_NV.mean(axis=0), estimator
    ) == pytest.approx(0.0, abs=1e-7)
    power = 1 if norm == "l1" else 2
    found = cost_V @ (target_V - nearest_V) ** power
    best = oracles.least_change(scores_NV, ids_N, target_V, cost_V, estimator, power)
    assert found == pytest.approx(best, rel=1e-5)


@pytest.mark.parametrize("how", ["interpolate", "priority", "least_change"])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_every_way_ends_attainable_with_enough_effective_samples_and_raises_nothing(how, estimator):
    for seed in range(5):
        scores_NV, ids_N = oracles.random_scores(np.random.default_rng(seed), prompts=30, samples=6, between=0.3)
        matrix = RewardMatrix(scores_NV, ["a", "b", "c"], ids_N)
        palette = Palette.from_sd(matrix, {"a": 1.5, "b": 1.0, "c": -0.3})
        adjusted = adjust(matrix, palette, how, floor_ess=40, estimator=estimator)
        assert adjusted.changed
        assert adjusted.solution.status is Status.optimal
        assert adjusted.solution.ess >= 40 * (1 - 1e-6)
        assert all(adjusted.new.targets[name] <= palette.targets[name] + 1e-12 for name in palette.targets)
        assert set(adjusted.binding) <= set(palette.targets)
        assert adjusted.binding


def test_mistakes_are_one_sentence():
    palette = Palette({"a": 0.6})
    for options, sentence in (
        ({"floor_ess": 300}, "floor_ess is 300, but"),
        ({"how": "guess"}, "called 'guess'"),
        ({"how": "least_change", "norm": "l3"}, "norm 'l3'"),
        ({"how": "priority", "order": ["a", "b"]}, r"order is \{a, b\}"),
        ({"how": "least_change", "weights": {"b": 1.0}}, "must be positive numbers for values of the palette"),
        ({"how": "least_change", "weights": {"a": 0.0}}, "must be positive numbers"),
    ):
        with pytest.raises(UserError, match=sentence):
            adjust(triangle(), palette, estimator="pooled", **options)


def test_on_the_edge_the_values_in_the_way_are_named():
    matrix = RewardMatrix(np.tile([[0.0, 1.0], [1.0, 0.0], [0.2, 0.2]], (100, 1)), ["a", "b"], np.zeros(300, int))
    for target in (0.5, 1e9):
        adjustment = adjust(matrix, Palette({"a": target, "b": target}), estimator="pooled")
        assert adjustment.binding == ("a", "b")
        assert adjustment.solution.status is Status.optimal
        assert adjustment.new.targets["a"] == pytest.approx(0.5, abs=0.01)


def test_absurd_targets_end():
    rng = np.random.default_rng(1)
    matrix = RewardMatrix(rng.normal(size=(300, 3)), list("abc"), np.arange(300) // 4)
    asked = Palette({"a": 1e8, "b": 3.3e7, "c": 0.1})
    adjustment = adjust(matrix, asked, "least_change", norm="l2")
    assert adjustment.solution.status is Status.optimal
    assert all(adjustment.new.targets[name] <= asked.targets[name] for name in "abc")


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_interpolation_goes_as_far_as_a_second_solver_allows(estimator):
    """rho by bisection on the margin of one linear program over all rows."""
    for seed in range(5):
        rng = np.random.default_rng(seed)
        scores_NV, ids_N = oracles.random_scores(rng, prompts=20, samples=4, values=3, between=0.2)
        matrix = RewardMatrix(scores_NV, list("abc"), ids_N)
        base_V, along_V = scores_NV.mean(axis=0), rng.uniform(3, 6, 3) * scores_NV.std(axis=0)
        low, high = 0.0, 1.0
        for _ in range(40):
            middle = (low + high) / 2
            room = oracles.full_margin(scores_NV, ids_N, base_V + middle * along_V, estimator)
            low, high = (middle, high) if room > 0 else (low, middle)
        asked = Palette(dict(zip("abc", base_V + along_V, strict=True)))
        new = adjust(matrix, asked, floor_ess=1, estimator=estimator).new
        share_V = (np.array([new.targets[name] for name in "abc"]) - base_V) / along_V
        np.testing.assert_allclose(share_V, share_V[0])
        assert 0.98 * low <= share_V[0] <= low
