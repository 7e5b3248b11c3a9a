"""The numbers of the page. Truth: the palette mathematics, called by itself."""

import numpy as np
import pytest

from mapft.errors import UserError
from mapft.palette import Palette, RewardMatrix, solve_dual
from mapft.ui import drawing
from mapft.ui.board import UNITS, Board


def matrix(rows: int = 400, values: int = 3, per_prompt: int = 8) -> RewardMatrix:
    rng = np.random.default_rng(3)
    mixing = np.eye(values) - 0.25 * (1 - np.eye(values))
    names = [f"value_{number}" for number in range(values)]
    return RewardMatrix(
        rng.normal(size=(rows, values)) @ mixing, names, np.repeat(np.arange(rows // per_prompt), per_prompt)
    )


@pytest.mark.parametrize("unit", UNITS)
def test_positions_and_levels_are_each_others_inverse(unit):
    board = Board(matrix())
    for name in board.matrix.values:
        low, high = board.span(unit, name)
        for share in (0.6, 0.8, 0.95):
            at = low + share * (high - low)
            level = board.palette(unit, {name: at}).targets[name]
            assert board.position(unit, name, level) == pytest.approx(at, abs=2 / 400)
        assert board.palette(unit, {name: high}).targets[name] == pytest.approx(board.matrix.column(name).max())


def test_positions_of_scores_that_repeat():
    """By np.quantile, the other way round."""
    rng = np.random.default_rng(0)
    scores = np.column_stack([rng.random(200) < 0.6, rng.integers(1, 6, 200)]).astype(float)
    board = Board(RewardMatrix(scores, ["yes", "stars"], np.arange(200) // 8))
    for name, levels in (("yes", (0.62, 0.9, 1.0)), ("stars", (3.5, 4.0, 4.25, 5.0))):
        for level in levels:
            at = board.position("quantile", name, level)
            assert np.quantile(board.matrix.column(name), at) == pytest.approx(level)
            assert board.palette("quantile", {name: at}).targets[name] == pytest.approx(level)


def test_a_target_beyond_the_best_sample_is_said():
    rng = np.random.default_rng(1)
    scores = RewardMatrix((rng.random((200, 1)) < 0.5).astype(float), ["yes"], np.arange(200) // 8)
    view = Board(scores).view(Palette({"yes": 1.1}))
    assert view.attainable
    assert "Beyond the best sample of yes: the centered estimator extrapolates there." in drawing.verdict(view, scores)
    assert "Beyond" not in drawing.verdict(Board(scores).view(Palette({"yes": 0.9})), scores)


def test_a_view_is_what_the_dual_says():
    board = Board(matrix())
    palette = Palette.from_sd(board.matrix, {"value_0": 0.3, "value_1": 0.2})
    view, alone = board.view(palette), solve_dual(board.matrix, palette)
    assert view.solution.lam == alone.lam
    text = drawing.levels(view, board)
    for number in (alone.lam["value_0"], alone.realized["value_2"], palette.targets["value_1"]):
        assert f"{number:.3f}" in text
    assert "value_2" in text.split("moves others")[1].split("</tr>")[1]  # what raising the first does to the free one
    assert f"{alone.kl:.3f} nats" in drawing.verdict(view, board.matrix)


def test_out_of_reach_is_proved_in_words_and_mended_in_each_way():
    board = Board(matrix())
    palette = Palette.from_sd(board.matrix, {"value_0": 2.0, "value_1": 2.0})
    view = board.view(palette)
    assert not view.attainable
    said = drawing.verdict(view, board.matrix)
    assert "Out of reach" in said
    assert "the best the samples give is" in said
    for how in ("interpolate", "priority", "least_change"):
        new = board.nearest(palette, how).new
        assert board.view(new).attainable
        assert all(new.targets[name] <= palette.targets[name] + 1e-12 for name in new.targets)


def test_candidates_have_the_tilted_probabilities():
    board = Board(matrix(), [f"p{i // 8}" for i in range(400)], [f"y{i}" for i in range(400)])
    solution = solve_dual(board.matrix, Palette.from_sd(board.matrix, {"value_0": 0.3, "value_1": 0.2}))
    texts, probability_K, scores_KV = board.candidates(5, solution)
    assert texts == [f"y{i}" for i in range(40, 48)]
    weights = np.exp(scores_KV @ [solution.lam[name] for name in board.matrix.values])
    np.testing.assert_allclose(probability_K, weights / weights.sum())


def test_texts_from_files_are_inert():
    hostile = '<img src=x onerror="alert(1)">'
    scores = matrix()
    named = RewardMatrix(scores.scores, [hostile, "b", "c"], scores.prompt_ids)
    board = Board(named, [hostile] * 400, [hostile] * 400)
    view = board.view(Palette.from_sd(named, {hostile: 0.3}))
    drawn = [drawing.verdict(view, named), drawing.levels(view, board), drawing.radar(board, view)]
    drawn += [drawing.trade_off(board, view, hostile, "b"), drawing.samples(board, view, 0)]
    out_of_reach = board.view(Palette.from_sd(named, {hostile: 9.0, "b": 9.0}))
    drawn.append(drawing.verdict(out_of_reach, named))
    for html in drawn:
        assert "<img" not in html
    assert "&lt;img" in drawn[1]
    assert "&lt;img" in drawn[4]


def test_a_unit_that_there_is_not():
    with pytest.raises(UserError, match="unit='percent' is unknown"):
        Board(matrix()).palette("percent", {"value_0": 1.0})
