"""Truth: the levels, scores and logs that were plotted, read back from the axes."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from mapft.evaluation import figures, training_figures
from mapft.evaluation.result import Estimate
from mapft.evaluation.style import save
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
    above_a, above_b, below_a, _ = figure.axes
    pieces = [
        line.get_xydata().tolist() for line in above_a.lines if len(line.get_xydata()) and line.get_linewidth() > 1.1
    ]
    assert pieces == [[[1, 0.1], [2, 0.2]], [[7, 0.3], [8, 0.4]]]
    assert any(np.allclose(line.get_ydata(), 0.25) for line in above_a.lines)
    assert above_b.get_title() == "b"
    assert below_a.lines[1].get_ydata().tolist() == [1.2, 1.3]


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


def test_levels_are_plotted_in_sd_above_base(evaluated):
    axis = figures.levels(evaluated[1]).axes[0]
    bars = {box.get_label(): box for box in axis.containers if not box.get_label().startswith("_")}
    assert set(bars) == {"base", "tuned"}
    tuned = [box for box in axis.containers if box[0].get_color() == bars["tuned"][0].get_color()]
    assert [box[0].get_ydata()[0] for box in tuned] == pytest.approx([0.25, 0.15, -0.05])
    lengths = [np.diff(box[2][0].get_segments()[0][:, 1])[0] for box in tuned]
    assert lengths == pytest.approx([0.15] * 3)


def test_radar_shows_quantiles_of_the_base_scores(evaluated):
    matrix, evaluation = evaluated
    axis = figures.radar(matrix, evaluation).axes[0]
    ring = next(line for line in axis.lines if line.get_label() == "tuned").get_ydata()
    by_hand = [(matrix.column(name) < c).mean() for name, c in (("a", 0.5), ("b", 0.3), ("c", -0.1))]
    assert list(ring) == pytest.approx([*by_hand, by_hand[0]])


def test_two_values_are_shown_as_bars(evaluated):
    matrix, evaluation = evaluated
    fewer = {
        name: replace(result, levels={value: result.levels[value] for value in "ab"})
        for name, result in evaluation.policies.items()
    }
    values = {name: evaluation.values[name] for name in "ab"}
    axis = figures.radar(matrix, replace(evaluation, values=values, policies=fewer)).axes[0]
    assert [patch.get_height() for patch in axis.patches[2:]] == [
        (matrix.column("a") < 0.5).mean(),
        (matrix.column("b") < 0.3).mean(),
    ]


def test_the_front_is_at_the_palettes_kl_and_its_targets_are_shaded(evaluated):
    matrix, evaluation = evaluated
    solution = evaluation.solution
    axis = figures.front(matrix, solution, evaluation.policies).axes[0]
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
    assert [axis.get_xlabel() for axis in axes] == ["a", "b", "c"]
    outline = axes[0].patches[0].get_xy()
    assert outline[:, 1].max() <= 1
    assert [line.get_xdata()[0] for line in axes[1].lines] == [0.4]
    assert not axes[2].lines


def test_logs_without_values_give_no_trajectories(tmp_path):
    assert training_figures.trajectories([logs(tmp_path / "1", [1], loss=[0.5])], {}) is None


def test_fronts_of_several_palettes_have_a_cross_each_and_families_share_a_marker(evaluated):
    matrix, evaluation = evaluated
    palettes, families = [{"a": 0.2, "b": 0.1}, {"a": 0.5}], dict.fromkeys(evaluation.policies, "both")
    axis = figures.front(matrix, evaluation.solution, evaluation.policies, [0.1, 0.3], palettes, families).axes[0]
    crosses = [line for line in axis.lines if line.get_marker() == "+" and len(line.get_xdata())]
    assert [line.get_xydata()[0].tolist() for line in crosses] == [[0.2, 0.1]]  # the other has no target for b
    labels = [text.get_text() for text in axis.get_legend().get_texts()]
    assert labels == ["both", "front at 0.10 nats", "front at 0.30 nats", "palette"]
