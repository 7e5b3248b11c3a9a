"""The numbers and sentences of the page. Truth: mapft.palette, called directly."""

import json
from pathlib import Path

import numpy as np
import pytest

from mapft.config.run_folder import RunFolder
from mapft.palette import Palette, ScoreMatrix, adjust, bootstrap, largest_levels, solve_dual
from mapft.palette.explain import infeasibility_sentence
from mapft.ui import answers
from mapft.ui.board import UNITS, Board
from mapft.ui.page import METHODS, Page
from mapft.ui.tuned import Tuned
from mapft.utils.errors import UserError
from tests.ui.scores import matrix, trained_run


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
    assert "Above the best sample of yes: the centered estimator extrapolates there." in answers.warnings(view, scores)
    assert not any("Above" in text for text in answers.warnings(Board(scores).view(Palette({"yes": 0.9})), scores))


@pytest.mark.filterwarnings("ignore:.*one sample only:UserWarning")
def test_what_one_sample_per_prompt_leaves_open_is_told():
    alone = ScoreMatrix(matrix().scores, matrix().values, np.arange(400))
    view = Board(alone).view(Palette({"value_0": 0.3}))
    assert view.solution.caution.startswith("Caution: 400 prompts have one sample")
    assert view.solution.caution in answers.warnings(view, alone)


def test_a_palette_on_few_samples_says_so():
    board = Board(matrix())
    limit = largest_levels(board.matrix, Palette({"value_0": 0.0}))["value_0"]
    few = answers.solution(board.view(Palette({"value_0": 0.9 * limit})), board)
    assert few["few"]
    assert few["ess"] < 30
    assert f"rests on {few['ess']:.0f} effective samples only" in few["verdict"]
    assert "Few samples" in few["warnings"][0]
    assert not answers.solution(board.view(Palette({"value_0": 0.1})), board)["few"]


def test_a_solution_is_that_of_the_dual():
    board = Board(matrix())
    palette = Palette.of(board.matrix, sd={"value_0": 0.3, "value_1": 0.2})
    told, solution = answers.solution(board.view(palette), board), solve_dual(board.matrix, palette)
    assert (told["state"], told["kl"], told["ess"], told["margin"]) == (
        "feasible",
        solution.kl,
        solution.ess,
        solution.margin,
    )
    assert f"{solution.kl:.3f} nats" in told["verdict"]
    first, second, free = told["values"]
    assert (first["text"]["lam"], first["text"]["target"]) == (
        f"{solution.lam['value_0']:.3f}",
        f"{palette.targets['value_0']:.3f}",
    )
    assert first["price"] == pytest.approx(solution.lam["value_0"] * board.matrix.sd["value_0"] / 10)
    assert (free["target"], free["price"], free["text"]["target"]) == (None, None, "free")
    assert free["predicted"] == solution.predicted["value_2"]
    assert "value_2" in first["text"]["effects"]
    low, high = second["interval"]
    assert low < solution.predicted["value_1"] < high
    json.dumps(told, allow_nan=False)


def test_an_infeasible_palette_names_its_conflict_and_has_a_proof():
    board = Board(matrix())
    view = board.view(Palette.of(board.matrix, sd={"value_0": 2.0, "value_1": 2.0}))
    told = answers.solution(view, board)
    assert told["verdict"].startswith("Infeasible: value_0 and value_1 cannot all be this high together")
    assert told["proof"] == infeasibility_sentence(board.matrix, view.solution)
    assert (told["kl"], told["values"][0]["predicted"], told["warnings"]) == (None, None, [])
    alone = board.view(Palette({"value_0": 99.0}))
    assert answers.verdict(alone, board.matrix) == "Infeasible: value_0 alone cannot be this high; lower it."
    json.dumps(told, allow_nan=False)


def request(*positions: float | None, unit: str = "absolute", **more) -> dict:
    return {"unit": unit, "positions": list(positions), "pair": [0, 1], "name": "mine", "measured": False, **more}


def test_requests_answer_with_limits_region_front_and_bands():
    page = Page(Board(matrix()), Path())
    palette = Palette({"value_0": 0.4, "value_2": 0.9})
    asked = request(0.4, None, 0.9)
    solution, limits = solve_dual(page.board.matrix, palette), largest_levels(page.board.matrix, palette)
    assert page.limits(asked)["limits"] == pytest.approx(list(limits.values()))
    around = page.around(asked)
    assert max(x for x, _ in around["region"]) == pytest.approx(limits["value_0"], abs=0.05)
    assert max(x for x, _ in around["free"]) > limits["value_0"] + 0.1
    np.testing.assert_allclose(around["front"], page.board.front("value_0", "value_1", solution.kl))
    bands, told = bootstrap(page.board.matrix, solution, replications=400), page.bands(asked)
    assert told["kl"] == [bands.kl.low, bands.kl.high]
    assert told["levels"][1] == [bands.predicted["value_1"].low, bands.predicted["value_1"].high]
    replaced = Palette({"value_0": 0.1, "value_1": 0.3, "value_2": 0.9})
    assert page.level({**asked, "at": [0.1, 0.3]})["kl"] == solve_dual(page.board.matrix, replaced).kl
    assert page.level({**asked, "at": [9.0, 9.0]})["kl"] is None


def test_nearest_palettes_are_those_of_adjust_in_a_unit_that_can_say_them():
    page = Page(Board(matrix()), Path())
    asked = request(1.0, 1.0, 0.5, unit="quantile")
    palette = page.board.palette("quantile", {"value_0": 1.0, "value_1": 1.0, "value_2": 0.5})
    for method, told in zip(METHODS, page.nearest(asked)["nearest"], strict=True):
        nearest = adjust(page.board.matrix, palette, method)
        named = dict(zip(page.values, told["positions"], strict=True))
        again = page.board.palette(told["unit"], named)
        assert dict(again.targets) == pytest.approx(dict(nearest.new.targets))
        assert told["unit"] == ("absolute" if method == "priority" else "quantile")  # it lowers below the base level
        assert (told["method"], told["kl"]) == (method, nearest.solution.kl)
        assert page.board.view(again).feasible


def test_a_trained_run_is_shown_beside_its_prediction(tmp_path):
    board, tuned = Board(matrix()), Tuned.of(RunFolder(trained_run(tmp_path / "run")))
    summary = tuned.summary(board)
    assert (summary["prompts"], summary["targets"]) == (4, [0.5, 0.25, None])
    assert [level["mean"] for level in summary["levels"]] == [0.45, 0.31, -0.1]
    base, answers_of_tuned = tuned.answers(1, board)
    assert [answer["text"] for answer in base] == ["text of base 2", "text of base 3"]
    assert [answer["text"] for answer in answers_of_tuned] == ["text of tuned 2", "text of tuned 3"]
    assert answers_of_tuned[0]["scores"] == ["0.29"] * 3  # 2 / 7
    (tmp_path / "run" / "evaluation_tuned.parquet").unlink()
    assert Tuned.of(RunFolder(tmp_path / "run")) is None


def test_candidates_have_the_tilted_probabilities():
    board = Board(matrix(), [f"p{i // 8}" for i in range(400)], [f"y{i}" for i in range(400)])
    solution = solve_dual(board.matrix, Palette.of(board.matrix, sd={"value_0": 0.3, "value_1": 0.2}))
    texts, probability_K, scores_KV = board.candidates(5, solution)
    assert texts == [f"y{i}" for i in range(40, 48)]
    weights = np.exp(scores_KV @ [solution.lam[name] for name in board.matrix.values])
    np.testing.assert_allclose(probability_K, weights / weights.sum())


def test_an_unknown_unit():
    with pytest.raises(UserError, match="unit='percent' is unknown"):
        Board(matrix()).palette("percent", {"value_0": 1.0})
