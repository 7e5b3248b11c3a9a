"""Prices, sensitivities, side effects, trade-offs, texts. Truth: finite differences of solved duals, arithmetic."""

import json

import numpy as np
import pytest

from mapft.palette import (
    ESTIMATORS,
    Palette,
    ScoreMatrix,
    adjust,
    adjustment_table,
    analyse,
    bootstrap,
    explain,
    solution_table,
    solve_dual,
    standard_errors,
)
from mapft.utils.errors import UserError
from tests.palette import oracles

STEP = 1e-4


def world(estimator):
    """Three values with a target, of which `slack` has one below its base level, and a free one."""
    rng = np.random.default_rng(7)
    ids_N = np.repeat(np.arange(60), 6)
    common = rng.normal(size=(360, 1)) * [0.5, 0.3, 0.4, -0.6]
    scores_NV = (common + rng.normal(size=(360, 4))) * [1.0, 10.0, 0.1, 2.0]
    matrix = ScoreMatrix(scores_NV, ["a", "b", "slack", "free"], ids_N)
    steps = {"a": 0.3, "b": 0.25, "slack": -0.5}
    return matrix, Palette.of(matrix, sd=steps), estimator


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
            slope = (up.predicted[other] - down.predicted[other]) / (2 * h)
            assert analysis.side_effects[other][name] == pytest.approx(slope, rel=1e-4, abs=1e-7)
    assert analysis.sensitivity["a"]["a"] > 0  # the published minus sign would make it negative


def test_a_trade_off_keeps_the_kl():
    matrix, palette, estimator = world("centered")
    solution = solve_dual(matrix, palette, estimator=estimator)
    slope = analyse(matrix, solution).trade_offs["a"]["b"]
    h = 1e-3 * matrix.sd["a"]
    exchanged = {**palette.targets, "a": palette.targets["a"] + h, "b": palette.targets["b"] + slope * h}
    change = solve_dual(matrix, Palette(exchanged), estimator=estimator).kl - solution.kl
    one_sided = moved(matrix, palette, estimator, "a", h).kl - solution.kl
    assert abs(change) < 0.02 * one_sided


def test_effective_samples_per_prompt_by_hand():
    """Prompt 0 has scores {0, 1} at odds 1:4, so (1 + 4)^2 / (1 + 16); prompt 1 has equal scores: 2."""
    matrix = ScoreMatrix([[0.0], [1.0], [0.5], [0.5]], ["a"], [0, 0, 1, 1])
    solution = solve_dual(matrix, Palette({"a": 0.65}), estimator="per_prompt")
    analysis = analyse(matrix, solution)
    assert analysis.ess_worst_prompt == pytest.approx(25 / 17)
    assert analysis.ess_per_prompt == pytest.approx((25 / 17 + 2) / 2)


def test_identical_values_have_a_finite_sensitivity():
    scores_NV, ids_N = oracles.random_scores(np.random.default_rng(1), values=1)
    matrix = ScoreMatrix(np.hstack([scores_NV, scores_NV]), ["a", "copy"], ids_N)
    solution = solve_dual(matrix, Palette.of(matrix, sd={"a": 0.3, "copy": 0.3}))
    assert np.isfinite(analyse(matrix, solution).sensitivity["a"]["copy"])


def test_analysis_needs_an_optimal_solution_of_this_matrix():
    matrix, palette, _ = world("centered")
    beyond = solve_dual(matrix, Palette({"a": 1e6}))
    with pytest.raises(UserError, match="infeasible and has no lambda"):
        analyse(matrix, beyond)
    other = ScoreMatrix([[0.0], [1.0]], ["z"], [0, 0])
    with pytest.raises(UserError, match=r"\{a, b, slack, free\}.*\{z\}"):
        analyse(other, solve_dual(matrix, palette))


def test_results_are_plain_json():
    matrix, palette, _ = world("centered")
    solution = solve_dual(matrix, palette)
    uncertainty = bootstrap(matrix, solution, replications=20)
    for result in (analyse(matrix, solution), uncertainty):
        assert json.loads(json.dumps(result.to_dict(), allow_nan=False))


def cells(table):
    """All cells of a table in one text."""
    return "\n".join(" | ".join(row) for row in table["rows"])


def test_text_and_table_carry_the_numbers():
    matrix, palette, _ = world("centered")
    solution = solve_dual(matrix, palette)
    uncertainty = bootstrap(matrix, solution, replications=20)
    text = explain(matrix, solution, uncertainty)
    grid = cells(solution_table(matrix, solution, uncertainty))
    for name, decimals in (("a", 3), ("b", 2), ("slack", 4)):  # sd 1, 10 and .1: a thousandth of each

        def level(number, decimals=decimals):
            return f"{number:.{decimals}f}"

        assert f"{name}: base {level(matrix.base[name])}, target {level(palette.targets[name])}" in text
        assert f"{solution.lam[name]:.{6 - decimals}f}" in grid
        interval = f"[{level(uncertainty.predicted[name].low)}, {level(uncertainty.predicted[name].high)}]"
        assert interval in text
        assert interval in grid
    assert "slack, so it costs nothing" in text
    assert "free" in grid
    assert f"{solution.kl:.3f} nats" in text


def test_the_text_of_an_infeasible_palette_states_the_proof():
    matrix = ScoreMatrix(np.tile([[0.0, 1.0], [1.0, 0.0]], (50, 1)), ["a", "b"], np.repeat(range(20), 5))
    palette = Palette({"a": 0.6, "b": 0.6})
    solution = solve_dual(matrix, palette, estimator="pooled")
    text = explain(matrix, solution)
    assert (
        "Proof, in the unit of each score: the palette asks for 1 a + 1 b = 1.2, but the samples allow 1 at most."
        in text
    )
    assert solution_table(matrix, solution)["title"].startswith("infeasible: pooled, margin -0.200 sd")
    adjusted = adjustment_table(matrix, adjust(matrix, Palette({"a": 0.7, "b": 0.7}), estimator="pooled"))
    assert adjusted["title"] == "adjusted palette: interpolate"
    assert [(row[0], row[2], row[-1]) for row in adjusted["rows"]] == [("a", "0.700", "yes"), ("b", "0.700", "yes")]


def test_few_effective_samples_give_a_caution():
    matrix, _, _ = world("pooled")
    solution = solve_dual(matrix, Palette.of(matrix, sd={"a": 2.3}), estimator="pooled")
    assert solution.ess < 30
    assert "Caution: lambda depends on only" in explain(matrix, solution)


@pytest.mark.parametrize(("scale", "target"), [(1e-6, "target 1e-06"), (1e6, "target 1e+06")])
def test_numbers_keep_their_digits_at_every_scale(scale, target):
    scores_NV = np.tile([[-1.0], [1.0], [2.0], [-2.0]], (25, 1)) * scale
    matrix = ScoreMatrix(scores_NV, ["a"], np.arange(100) // 4)
    text = explain(matrix, solve_dual(matrix, Palette({"a": 1.0 * scale})))
    assert target in text
    assert "lambda 0.000" not in text


def test_the_adjusted_target_of_a_constant_value_is_its_level():
    matrix = ScoreMatrix(np.column_stack([np.arange(40.0) % 4, np.full(40, 3.0)]), ["a", "b"], np.arange(40) // 4)
    rows = adjustment_table(matrix, adjust(matrix, Palette({"a": 1.6, "b": 4.0})))["rows"]
    assert rows[1] == ["b", "3.000", "4.000", "3.000", "-", "yes"]


def test_failed_resamples_give_a_caution():
    rng = np.random.default_rng(3)
    matrix = ScoreMatrix(rng.normal(size=(160, 4)) ** 3, list("abcd"), np.arange(160) // 4)
    solution = solve_dual(matrix, Palette.of(matrix, sd=dict.fromkeys("abcd", 1.0)))
    uncertainty = bootstrap(matrix, solution, replications=50)
    assert uncertainty.failed > 0
    assert f"on {uncertainty.failed} of 50 resamples" in explain(matrix, solution, uncertainty)


def test_one_prompt_gives_no_standard_errors_and_no_intervals():
    matrix = ScoreMatrix(np.random.default_rng(0).normal(size=(40, 1)), ["a"], np.zeros(40, int))
    solution = solve_dual(matrix, Palette({"a": matrix.base["a"] + 0.3}))
    for estimate in (bootstrap, standard_errors):
        with pytest.raises(UserError, match="all samples belong to one prompt"):
            estimate(matrix, solution)


def test_the_text_names_the_prompts_that_a_small_pilot_lacks():
    """60 prompts: 1.96 se / .05 sd squared times as many are needed; 60 000 prompts are enough."""
    matrix, palette, _ = world("centered")
    solution = solve_dual(matrix, palette)
    se = standard_errors(matrix, solution).predicted
    prompts = 60 * max(1.959964 * se[name] / (0.05 * matrix.sd[name]) for name in palette.targets) ** 2
    assert f"use about {np.ceil(prompts):.0f} prompts with as many samples each" in explain(matrix, solution)
    many = ScoreMatrix(np.random.default_rng(0).normal(size=(24000, 1)), ["a"], np.arange(24000) // 4)
    assert "prompts with as many samples" not in explain(many, solve_dual(many, Palette({"a": 0.1})))
