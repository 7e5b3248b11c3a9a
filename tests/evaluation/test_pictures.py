"""Truth: what was put into the logs, read back from the axes."""

import json

import numpy as np
import pytest

from mapft.evaluation import pictures


def logs(path, steps, **columns):
    rows = [{"step": step} | {name: values[n] for name, values in columns.items()} for n, step in enumerate(steps)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_trajectories_join_the_stages_and_show_the_targets(tmp_path):
    first = logs(tmp_path / "1", [1, 2], **{"map/scores/a": [0.1, 0.2], "map/lam/a": [1.0, 1.1]})
    second = logs(tmp_path / "2", [1, 2], **{"map/scores/b": [3.0, 3.5], "map/lam/b": [0.5, 0.5]})
    third = logs(tmp_path / "3", [1, 2], **{"map/scores/a": [0.3, 0.4], "map/lam/a": [1.2, 1.3]})
    figure = pictures.trajectories([first, second, third], {"a": 0.25})
    above_a, above_b, below_a, _ = figure.axes
    pieces = [
        line.get_xydata().tolist() for line in above_a.lines if len(line.get_xydata()) and line.get_linewidth() > 1.1
    ]
    assert pieces == [[[1, 0.1], [2, 0.2]], [[7, 0.3], [8, 0.4]]]
    assert any(np.allclose(line.get_ydata(), 0.25) for line in above_a.lines)
    assert above_b.get_title() == "b"
    assert below_a.lines[1].get_ydata().tolist() == [1.2, 1.3]


def test_stages_show_lam_against_the_simultaneous_solution(tmp_path):
    stages = [
        {"value": "a", "lam": 1.0, "violation_sd": 0.5, "skipped": False},
        {"value": "b", "lam": 0.4, "violation_sd": 0.3, "skipped": False},
        {"value": "a", "lam": 0.8, "violation_sd": 0.2, "skipped": False},
        {"value": "b", "lam": 0.4, "violation_sd": 0.0, "skipped": True},
    ]
    figure = pictures.stages({"order": ["a", "b"], "stages": stages}, {"a": 0.7, "b": 0.45}, 0.03)
    left, right = figure.axes
    assert left.lines[0].get_xydata().tolist() == [[0, 0], [1, 1], [3, 0.8], [4, 0.8]]
    assert left.lines[1].get_ydata()[0] == 0.7
    assert right.lines[0].get_ydata().tolist() == pytest.approx([0.5, 0.2])
    pictures.save(figure, tmp_path / "figures", "stages")
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == ["stages.png", "stages.svg"]
