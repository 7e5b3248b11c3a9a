"""Prices, sensitivities, side effects, trade-offs. Truth: finite differences of re-solved duals."""

import io
import json

import numpy as np
import pytest

from mapft.errors import UserError
from mapft.palette import (
    ESTIMATORS,
    Palette,
    RewardMatrix,
    adjust,
    analyse,
    bootstrap,
    explain,
    required_samples,
    solve_dual,
    standard_errors,
    table,
)
from mapft.palette.explain import adjustment_table, adjustment_text
from tests import oracles

STEP = 1e-4


def world(estimator):
    """Three values constrained, of which `slack` lies below its target's pull, and one free."""
    rng = np.random.default_rng(7)
    ids_N = np.repeat(np.arange(60), 6)
    common = rng.normal(size=(360, 1)) * [0.5, 0.3, 0.4, -0.6]
    scores_NV = (common + rng.normal(size=(360, 4))) * [1.0, 10.0, 0.1, 2.0]
    matrix = RewardMatrix(scores_NV, ["a", "b", "slack", "free"], ids_N)
    steps = {"a": 0.3, "b": 0.25, "slack": -0.5}
    return matrix, Palette.from_sd(matrix, steps), estimator


def moved(matrix, palette, estimator, name, step):
    targets = {**palette.targets, name: palette.targets[name] + step}
    return solve_dual(matrix, Palette(targets), estimator=estimator)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_derivatives_equal_finite_differences(estimator):
    matrix, palette, _ = world(estimator)
    solution = solve_dual(matrix, palette, estimator=estimator)
    analysis = analyse(matrix, solution)
    assert set(analysis.sensitivity) == {"a", "b"}
    for name in ("a", "b"):
        h = STEP * matrix.sd[name]
        up, down = (moved(matrix, palette, estimator, name, sign * h) for sign in (1, -1))
        assert analysis.price[name] == pytest.approx((up.kl - down.kl) / (2 * h), rel=1e-5)
        assert analysis.price_per_sd[name] == pytest.approx(analysis.price[name] * matrix.sd[name])
        for other in ("a", "b"):
            slope = (up.lam[other] - down.lam[other]) / (2 * h)
            assert analysis.sensitivity[other][name] == pytest.approx(slope, rel=1e-5)
        for other in matrix.values:
            slope = (up.realized[other] - down.realized[other]) / (2 * h)
            assert analysis.side_effects[other][name] == pytest.approx(slope, rel=1e-4, abs=1e-7)
    assert analysis.sensitivity["a"]["a"] > 0  # the published minus sign would make it negative


def test_a_trade_off_leaves_the_kl_where_it_is():
    matrix, palette, estimator = world("centered")
    solution = solve_dual(matrix, palette, estimator=estimator)
    slope = analyse(matrix, solution).trade_offs["a"]["b"]
    h = 1e-3 * matrix.sd["a"]
    exchanged = {**palette.targets, "a": palette.targets["a"] + h, "b": palette.targets["b"] + slope * h}
    change = solve_dual(matrix, Palette(exchanged), estimator=estimator).kl - solution.kl
    one_sided = moved(matrix, palette, estimator, "a", h).kl - solution.kl
    assert abs(change) < 0.02 * one_sided


def test_effective_samples_per_prompt_by_hand():
    """Prompt 0 has scores {0, 1} at odds 1:4, so (1 + 4)^2 / (1 + 16); prompt 1 is indifferent: 2."""
    matrix = RewardMatrix([[0.0], [1.0], [0.5], [0.5]], ["a"], [0, 0, 1, 1])
    solution = solve_dual(matrix, Palette({"a": 0.65}), estimator="per_prompt")
    analysis = analyse(matrix, solution)
    assert analysis.ess_worst_prompt == pytest.approx(25 / 17)
    assert analysis.ess_per_prompt == pytest.approx((25 / 17 + 2) / 2)


def test_duplicated_values_do_not_break_the_sensitivity():
    scores_NV, ids_N = oracles.random_scores(np.random.default_rng(1), values=1)
    matrix = RewardMatrix(np.hstack([scores_NV, scores_NV]), ["a", "copy"], ids_N)
    solution = solve_dual(matrix, Palette.from_sd(matrix, {"a": 0.3, "copy": 0.3}))
    assert np.isfinite(analyse(matrix, solution).sensitivity["a"]["copy"])


def test_analysis_needs_an_optimal_solution_of_this_matrix():
    matrix, palette, _ = world("centered")
    beyond = solve_dual(matrix, Palette({"a": 1e6}))
    with pytest.raises(UserError, match="infeasible, so there is no lambda"):
        analyse(matrix, beyond)
    other = RewardMatrix([[0.0], [1.0]], ["z"], [0, 0])
    with pytest.raises(UserError, match=r"\{a, b, slack, free\}.*\{z\}"):
        analyse(other, solve_dual(matrix, palette))


def test_everything_goes_through_json():
    matrix, palette, _ = world("centered")
    solution = solve_dual(matrix, palette)
    uncertainty = bootstrap(matrix, solution, replications=20)
    adjusted = adjust(matrix, Palette.from_sd(matrix, {"a": 9.0}))
    for result in (analyse(matrix, solution), uncertainty, adjusted):
        assert json.loads(json.dumps(result.to_dict(), allow_nan=False))


def rendered(grid):
    from rich.console import Console

    console = Console(width=200, record=True, file=io.StringIO())
    console.print(grid)
    return console.export_text()


def test_text_and_table_carry_the_numbers():
    matrix, palette, _ = world("centered")
    solution = solve_dual(matrix, palette)
    uncertainty = bootstrap(matrix, solution, replications=20)
    text = explain(matrix, solution, uncertainty)
    shown = rendered(table(matrix, solution, uncertainty))
    for name, decimals in (("a", 3), ("b", 2), ("slack", 4)):  # sd 1, 10 and .1: a thousandth of each

        def level(number, decimals=decimals):
            return f"{number:.{decimals}f}"

        assert f"{name}: base {level(matrix.base[name])}, target {level(palette.targets[name])}" in text
        assert f"{solution.lam[name]:.{6 - decimals}f}" in shown
        interval = f"[{level(uncertainty.realized[name].low)}, {level(uncertainty.realized[name].high)}]"
        assert interval in text
        assert interval in shown
    assert "slack, so it costs nothing" in text
    assert "free" in shown
    assert f"{solution.kl:.3f} nats" in text


def test_infeasible_text_states_the_proof_and_the_adjusted_palette():
    matrix = RewardMatrix(np.tile([[0.0, 1.0], [1.0, 0.0]], (50, 1)), ["a", "b"], np.repeat(range(20), 5))
    palette = Palette({"a": 0.6, "b": 0.6})
    solution = solve_dual(matrix, palette, estimator="pooled")
    text = explain(matrix, solution)
    assert "Proof: the palette asks 1.2 of the mixture 1 a + 1 b, and the best the samples give is 1." in text
    assert "infeasible" in rendered(table(matrix, solution))
    adjusted = adjust(matrix, Palette({"a": 0.7, "b": 0.7}), estimator="pooled")
    assert adjustment_text(matrix, adjusted).startswith("Adjusted (interpolate); in each other's way: a, b.")
    assert "0.700" in rendered(adjustment_table(matrix, adjusted))
    unchanged = adjust(matrix, Palette({"a": 0.6}), estimator="pooled")
    assert "nothing was adjusted" in adjustment_text(matrix, unchanged)


def test_few_effective_samples_are_called_out():
    matrix, _, _ = world("pooled")
    solution = solve_dual(matrix, Palette.from_sd(matrix, {"a": 2.3}), estimator="pooled")
    assert solution.ess < 30
    assert "Caution: lambda rests on" in explain(matrix, solution)


@pytest.mark.parametrize(("scale", "shown"), [(1e-6, "target 1e-06"), (1e6, "target 1e+06")])
def test_numbers_keep_their_digits_at_every_scale(scale, shown):
    scores_NV = np.tile([[-1.0], [1.0], [2.0], [-2.0]], (25, 1)) * scale
    matrix = RewardMatrix(scores_NV, ["a"], np.arange(100) // 4)
    text = explain(matrix, solve_dual(matrix, Palette({"a": 1.0 * scale})))
    assert shown in text
    assert "lambda 0.000" not in text


def test_a_lowered_constant_is_not_called_as_asked():
    matrix = RewardMatrix(np.column_stack([np.arange(40.0) % 4, np.full(40, 3.0)]), ["a", "b"], np.arange(40) // 4)
    text = adjustment_text(matrix, adjust(matrix, Palette({"a": 1.6, "b": 4.0})))
    assert "b: base 3.000, asked 4.000, now 3.000 (a constant value)" in text


def test_failed_resamples_are_owned_up_to():
    rng = np.random.default_rng(3)
    matrix = RewardMatrix(rng.normal(size=(160, 4)) ** 3, list("abcd"), np.arange(160) // 4)
    solution = solve_dual(matrix, Palette.from_sd(matrix, dict.fromkeys("abcd", 1.0)))
    uncertainty = bootstrap(matrix, solution, replications=50)
    assert uncertainty.failed > 0
    assert f"on {uncertainty.failed} of 50 resamples" in explain(matrix, solution, uncertainty)


def test_one_prompt_gives_no_intervals_and_no_plan():
    matrix = RewardMatrix(np.random.default_rng(0).normal(size=(40, 1)), ["a"], np.zeros(40, int))
    solution = solve_dual(matrix, Palette({"a": matrix.base["a"] + 0.3}))
    for ask in (bootstrap, standard_errors, lambda m, s: required_samples(m, s, 0.1)):
        with pytest.raises(UserError, match="all samples answer one prompt"):
            ask(matrix, solution)


@pytest.mark.parametrize("sizes", [(0,), (1, 2), ()])
def test_plans_keep_to_what_the_estimator_can_use(sizes):
    matrix, palette, _ = world("centered")
    with pytest.raises(UserError, match="name numbers of 2 or more"):
        required_samples(matrix, solve_dual(matrix, palette), 0.1, samples_per_prompt=sizes)
