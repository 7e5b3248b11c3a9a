"""Truth: the levels, scores and logs that were plotted, read back from the axes."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from mapft.evaluation import figures, row_figures, training_figures
from mapft.evaluation.result import Estimate
from mapft.evaluation.style import INK, TUNED_COLOR, WIDE, save
from mapft.palette import Palette, ScoreMatrix, pareto_front, solve_dual
from tests.evaluation.results import evaluation, policy_result, value_result


def logs(path, steps, **columns):
    rows = [{"step": step} | {name: values[n] for name, values in columns.items()} for n, step in enumerate(steps)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_trajectories_join_the_visits_and_show_the_targets(tmp_path):
    first = logs(tmp_path / "1", [1, 2], **{"map/scores/a": [0.1, 0.2], "map/lam/a": [1.0, 1.1]})
    second = logs(tmp_path / "2", [1, 2], **{"map/scores/b": [3.0, 3.5], "map/lam/b": [0.5, 0.5]})
    third = logs(tmp_path / "3", [1, 2], **{"map/scores/a": [0.3, 0.4], "map/lam/a": [1.2, 1.3]})
    figure = training_figures.trajectories([first, second, third], {"a": 0.25})
    score_a, lam_a, score_b, _ = figure.axes
    pieces = [
        line.get_xydata().tolist() for line in score_a.lines if len(line.get_xydata()) and line.get_linewidth() > 1.1
    ]
    assert pieces == [[[1, 0.1], [2, 0.2]], [[7, 0.3], [8, 0.4]]]
    assert any(np.allclose(line.get_ydata(), 0.25) for line in score_a.lines)
    assert score_b.get_ylabel() == "b"
    assert lam_a.lines[1].get_ydata().tolist() == [1.2, 1.3]


def test_of_many_values_the_pairs_of_the_first_are_shown():
    """64 values have 2016 pairs, which no page has room for."""
    names = [f"value_{number}" for number in range(64)]
    matrix = ScoreMatrix(np.random.default_rng(0).normal(size=(400, 64)), names, np.repeat(np.arange(10), 40))
    solution = solve_dual(matrix, Palette.of(matrix, sd=dict.fromkeys(names, 0.01)))
    pairs = figures.value_pairs(solution)
    assert pairs == [(names[i], names[j]) for i in range(6) for j in range(i + 1, 6)]
    few = solve_dual(matrix, Palette.of(matrix, sd=dict.fromkeys(names[:6], 0.01)))
    assert figures.value_pairs(few) == pairs


def test_visits_show_lam_against_the_simultaneous_solution(tmp_path):
    visits = [
        {"value": "a", "lam": 1.0, "violation_sd": 0.5, "skipped": False},
        {"value": "b", "lam": 0.4, "violation_sd": 0.3, "skipped": False},
        {"value": "a", "lam": 0.8, "violation_sd": 0.2, "skipped": False},
        {"value": "b", "lam": 0.4, "violation_sd": 0.0, "skipped": True},
    ]
    record = {"order": ["a", "b"], "visits": visits, "tolerance": 0.03}
    figure = training_figures.visits(record, {"a": 0.7, "b": 0.45})
    left, right = figure.axes
    assert left.lines[0].get_xydata().tolist() == [[0, 0], [1, 1], [3, 0.8], [4, 0.8]]
    assert left.lines[1].get_ydata()[0] == 0.7
    assert right.lines[0].get_ydata().tolist() == pytest.approx([0.5, 0.2])
    assert any(line.get_ydata()[0] == 0.03 for line in right.lines)
    save(figure, tmp_path / "figures", "visits")
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == ["visits.png", "visits.svg"]


@pytest.fixture(scope="module")
def evaluated():
    """A pilot of three values, two of them with targets, and an evaluation with levels that are easy to recognise."""
    scores = np.random.default_rng(0).normal(size=(400, 3))
    matrix = ScoreMatrix(scores, ["a", "b", "c"], np.repeat(np.arange(100), 4))
    solution = solve_dual(matrix, Palette({"a": 0.5, "b": 0.4}))

    def levels(**means):
        return {name: Estimate(mean, mean - 0.1, mean + 0.2) for name, mean in means.items()}

    policies = {
        "base": policy_result(levels(a=0.0, b=0.0, c=0.0)),
        "tuned": policy_result(levels(a=0.5, b=0.3, c=-0.1)),
    }
    values = {
        name: value_result(target=solution.targets.get(name), predicted=solution.predicted[name], sd=2.0)
        for name in "abc"
    }
    return matrix, evaluation(values, policies=policies, solution=solution)


@pytest.mark.parametrize("wide", [True, False])
def test_levels_are_plotted_in_sd_above_base_beside_the_price(evaluated, wide):
    result = replace(evaluated[1], price_ratio=Estimate(1.25, 1.2, 1.3))
    figure = row_figures.levels(result, wide)
    levels, price = figure.axes
    tuned = [box for box in levels.containers if box[0].get_color() == TUNED_COLOR]
    assert [box[0].get_xdata()[0] for box in tuned] == pytest.approx([0.25, 0.15, -0.05])
    assert [np.diff(box[2][0].get_segments()[0][:, 0])[0] for box in tuned] == pytest.approx([0.15] * 3)
    targets = [line.get_xdata()[0] for line in levels.lines if line.get_linewidth() == 2 and line.get_color() == INK]
    assert targets == pytest.approx([0.25, 0.2])
    assert [text.get_text().strip() for text in levels.texts] == ["✓ -0.02 sd", "✓ -0.02 sd", "free"]
    kl = result.tuned.kl.mean
    assert [bar.get_width() for bar in price.patches] == pytest.approx([kl, kl / 1.25, result.kl_predicted])
    assert "1.25 × the least" in price.get_title("left")
    noise = row_figures.levels(replace(result, price_ratio=Estimate(0.0, 0.0, 9.0)), wide).axes[1]
    assert [bar.get_width() for bar in noise.patches] == pytest.approx([kl, result.kl_predicted])
    assert {text.get_text() for text in figure.legends[0].get_texts()} >= {"base", "tuned", "target"}


def test_prices_are_lambda_in_nats_per_sd_with_the_interval_of_its_error():
    values = {"a": value_result(lam=0.5, sd=2.0), "b": value_result(lam=1.5, sd=1.0)}
    result = evaluation(values, lam={"a": 0.75, "b": 1.5}, lam_error={"a": 0.1, "b": 0.0})
    axis = row_figures.prices(result).axes[0]
    pilot = [line.get_xdata()[0] for line in axis.lines if line.get_marker() == "D"]
    assert pilot == [1.0, 1.5]
    first, second = (box[2][0].get_segments()[0][:, 0] for box in axis.containers)
    assert first == pytest.approx([1.5 - 1.96 * 0.2, 1.5 + 1.96 * 0.2], abs=1e-3)
    assert second.tolist() == [1.5, 1.5]


def test_a_contender_is_judged_by_its_smallest_gap():
    levels = {"a": Estimate(1.0, 0.8, 1.2), "b": Estimate(4.0, 3.0, 5.0), "flat": Estimate(0.0, 0.0, 0.0)}
    gaps = row_figures.gaps_sd(levels, {"a": 1.5, "b": 4.0, "flat": 0.0}, {"a": 0.5, "b": 2.0, "flat": 0.0})
    assert gaps == {"a": Estimate(-1.0, pytest.approx(-1.4), pytest.approx(-0.6)), "b": Estimate(0.0, -0.5, 0.5)}
    rows = [
        row_figures.Row("one", gaps, Estimate(0.4, 0.3, 0.5), met=False),
        row_figures.Row("two", {}, Estimate(40.0, 39.0, 41.0), met=True, bound=True),
    ]
    left, right = row_figures.contenders(rows, 0.1, "policy").axes
    [smallest] = left.containers
    assert smallest[0].get_xdata()[0] == -1.0
    assert [box[0].get_xdata()[0] for box in right.containers] == [0.4, 40.0]
    assert right.containers[1][0].get_marker() == "<"
    assert right.get_xscale() == "symlog"


def test_the_front_is_at_the_palettes_kl_and_its_targets_are_shaded(evaluated):
    matrix, evaluation = evaluated
    solution = evaluation.solution
    curves = figures.front_levels(matrix, solution, [solution.kl])
    axis = figures.front(solution, evaluation.policies, curves).axes[0]
    curve = max(axis.lines, key=lambda line: len(line.get_xdata()))
    best = pareto_front(matrix, ["a", "b"], 60, kl=solution.kl).levels_nV
    np.testing.assert_allclose(curve.get_xydata(), best)
    beyond = best @ [solution.lam["a"], solution.lam["b"]]
    assert beyond.max() == pytest.approx(
        solution.targets["a"] * solution.lam["a"] + solution.targets["b"] * solution.lam["b"], abs=1e-3
    )
    shaded = next(c for c in axis.collections if type(c).__name__ in ("PolyCollection", "FillBetweenPolyCollection"))
    vertices = shaded.get_paths()[0].vertices
    assert vertices.min(axis=0).tolist() == [0.5, 0.4]


def test_distributions_hold_every_response_and_the_targets(evaluated):
    solution = evaluated[1].solution
    rng = np.random.default_rng(0)
    tables = {name: pd.DataFrame(rng.normal(size=(60, 3)), columns=list("abc")) for name in ("base", "tuned")}
    axes = figures.distributions(tables, solution).axes
    assert [axis.get_xlabel() for axis in axes] == ["a (score)", "b (score)", "c (score)"]
    outline = axes[0].patches[0].get_xy()
    assert 0 < outline[:, 1].max() <= 100
    assert [line.get_xdata()[0] for line in axes[1].lines] == [0.4]
    assert not axes[2].lines


def test_logs_without_values_give_no_trajectories(tmp_path):
    assert training_figures.trajectories([logs(tmp_path / "1", [1], loss=[0.5])], {}) is None


def test_fronts_of_several_palettes_have_a_cross_each_and_families_share_a_marker(evaluated):
    matrix, evaluation = evaluated
    palettes, families = [{"a": 0.2, "b": 0.1}, {"a": 0.5}], dict.fromkeys(evaluation.policies, "both")
    solution = evaluation.solution
    curves = figures.front_levels(matrix, solution, [0.1, 0.3])
    figure = figures.front(solution, evaluation.policies, curves, palettes, families)
    crosses = [line for line in figure.axes[0].lines if line.get_marker() == "+"]
    assert [line.get_xydata()[0].tolist() for line in crosses] == [[0.2, 0.1]]  # the other has no target for b
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["both", "front at 0.10 nats", "front at 0.30 nats", "palette"]


def test_many_pairs_wrap_into_rows_and_a_name_with_dollar_signs_is_text(tmp_path):
    """Four values have 6 pairs: two rows of three. Truth: the position of the axes, and the text of the file."""
    names = ["$a$", "b", "c", "d"]
    solution = replace(
        evaluation({"a": value_result()}).solution, targets=dict.fromkeys(names, 0.5), lam=dict.fromkeys(names, 1.0)
    )
    policies = {"base": policy_result(dict.fromkeys(names, Estimate(0.1, 0.0, 0.2)))}
    assert figures.save_both(lambda wide: figures.front(solution, policies, [], wide=wide), tmp_path, "front")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["front-narrow.svg", "front.png", "front.svg"]
    figure = figures.front(solution, policies, [])
    assert len(figure.axes) == 6
    assert figure.get_figwidth() == WIDE
    assert len({round(axis.get_position().y0, 3) for axis in figure.axes}) == 2
    assert ">$a$ (mean score)</text>" in (tmp_path / "front.svg").read_text()
