"""The numbers of the page. Truth: mapft.palette, called directly."""

import numpy as np
import pytest

from mapft.palette import Palette, ScoreMatrix, solve_dual
from mapft.palette.explain import infeasibility_sentence
from mapft.ui import html
from mapft.ui.board import NEAREST, UNITS, Board
from mapft.utils.errors import UserError
from tests.ui.scores import matrix


@pytest.mark.parametrize("unit", UNITS)
def test_positions_and_levels_are_inverse(unit):
    board = Board(matrix())
    for name in board.matrix.values:
        low, high = board.span(unit, name)
        for share in (0.6, 0.8, 0.95):
            at = low + share * (high - low)
            level = board.palette(unit, {name: at}).targets[name]
            assert board.position(unit, name, level) == pytest.approx(at, abs=2 / 400)
        assert board.palette(unit, {name: high}).targets[name] == pytest.approx(board.matrix.column(name).max())


def test_positions_of_scores_that_repeat():
    """Truth: np.quantile at the position is the level."""
    rng = np.random.default_rng(0)
    scores = np.column_stack([rng.random(200) < 0.6, rng.integers(1, 6, 200)]).astype(float)
    board = Board(ScoreMatrix(scores, ["yes", "stars"], np.arange(200) // 8))
    for name, levels in (("yes", (0.62, 0.9, 1.0)), ("stars", (3.5, 4.0, 4.25, 5.0))):
        for level in levels:
            at = board.position("quantile", name, level)
            assert np.quantile(board.matrix.column(name), at) == pytest.approx(level)
            assert board.palette("quantile", {name: at}).targets[name] == pytest.approx(level)


def test_a_target_above_the_best_sample_is_reported():
    rng = np.random.default_rng(1)
    scores = ScoreMatrix((rng.random((200, 1)) < 0.5).astype(float), ["yes"], np.arange(200) // 8)
    view = Board(scores).view(Palette({"yes": 1.1}))
    assert view.feasible
    assert "Above the best sample of yes: the centered estimator extrapolates there." in html.verdict(view, scores)
    assert "Above" not in html.verdict(Board(scores).view(Palette({"yes": 0.9})), scores)


def test_a_view_shows_the_dual_solution():
    board = Board(matrix())
    palette = Palette.of(board.matrix, sd={"value_0": 0.3, "value_1": 0.2})
    view, solution = board.view(palette), solve_dual(board.matrix, palette)
    assert view.solution.lam == solution.lam
    text = html.levels(view, board)
    for number in (solution.lam["value_0"], solution.predicted["value_2"], palette.targets["value_1"]):
        assert f"{number:.3f}" in text
    assert "value_2" in text.split("effect on others")[1].split("</tr>")[1]  # effect of the first value on the free one
    assert f"{solution.kl:.3f} nats" in html.verdict(view, board.matrix)


def test_an_infeasible_palette_has_a_certificate_and_nearest_palettes():
    board = Board(matrix())
    palette = Palette.of(board.matrix, sd={"value_0": 2.0, "value_1": 2.0})
    view = board.view(palette)
    assert not view.feasible
    text = html.verdict(view, board.matrix)
    assert "Infeasible" in text
    assert infeasibility_sentence(board.matrix, view.solution) in text
    for method in NEAREST:
        new = board.nearest(palette, method).new
        assert board.view(new).feasible
        assert all(new.targets[name] <= palette.targets[name] + 1e-12 for name in new.targets)


def test_candidates_have_the_tilted_probabilities():
    board = Board(matrix(), [f"p{i // 8}" for i in range(400)], [f"y{i}" for i in range(400)])
    solution = solve_dual(board.matrix, Palette.of(board.matrix, sd={"value_0": 0.3, "value_1": 0.2}))
    texts, probability_K, scores_KV = board.candidates(5, solution)
    assert texts == [f"y{i}" for i in range(40, 48)]
    weights = np.exp(scores_KV @ [solution.lam[name] for name in board.matrix.values])
    np.testing.assert_allclose(probability_K, weights / weights.sum())


def test_texts_from_files_are_escaped():
    hostile = '<img src=x onerror="alert(1)">'
    scores = matrix()
    named = ScoreMatrix(scores.scores, [hostile, "b", "c"], scores.prompt_ids)
    board = Board(named, [hostile] * 400, [hostile] * 400)
    view = board.view(Palette.of(named, sd={hostile: 0.3}))
    fragments = [html.verdict(view, named), html.levels(view, board), html.radar(board, view)]
    fragments += [html.trade_off(board, view, hostile, "b"), html.samples(board, view, 0)]
    infeasible = board.view(Palette.of(named, sd={hostile: 9.0, "b": 9.0}))
    fragments.append(html.verdict(infeasible, named))
    for fragment in fragments:
        assert "<img" not in fragment
    assert "&lt;img" in fragments[1]
    assert "&lt;img" in fragments[4]


def test_an_unknown_unit():
    with pytest.raises(UserError, match="unit='percent' is unknown"):
        Board(matrix()).palette("percent", {"value_0": 1.0})
