"""Every tracker, and one that a user adds. Truth: the files that it wrote, read back with the tracker's own format."""

import dataclasses
import json
import logging

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mapft.cli import main
from mapft.config.run_folder import RunFolder
from mapft.evaluation.result import Estimate
from mapft.tracking.callback import GuardedTracker
from mapft.tracking.trackers import TRACKERS, Job, Tracker, check_trackers
from mapft.utils.errors import UserError
from tests import worlds
from tests.evaluation.results import evaluation, value_result
from tests.tracking.recorded import ListTracker
from tests.tracking.settings import small_config
from tests.tracking.wandb_file import read
from tests.worlds import SMALL, own

METRICS = {"map/scores/a": 0.25, "objective/kl": 0.5, "episodes": 32.0}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return worlds.build(tmp_path_factory.mktemp("world"))


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")


def wandb_metrics(folder: RunFolder) -> dict[str, float]:
    """What the one offline file of the folder has logged."""
    [path] = folder.path.rglob("*.wandb")
    record = read(path)
    assert record["summary"]["evaluation/realized_mean/a"] == 1.48
    assert "run_table" in record["artifacts"].values()
    return {key: value for row in record["history"] for key, value in row.items() if key in METRICS}


def tensorboard_metrics(folder: RunFolder) -> dict[str, float]:
    """What the event files of the folder hold."""
    events = EventAccumulator(str(folder.tensorboard))
    events.Reload()
    scalars = {name: events.Scalars(name)[0] for name in events.Tags()["scalars"]}
    assert {scalar.step for scalar in scalars.values()} == {32}
    return {name: scalar.value for name, scalar in scalars.items()}


READERS = {"wandb": wandb_metrics, "tensorboard": tensorboard_metrics}


@pytest.mark.parametrize("name", list(TRACKERS))
def test_a_tracker_writes_what_it_is_sent(name, tmp_path):
    """One job: a step, a table, an evaluation with a report, and its end."""
    folder = RunFolder(tmp_path)
    for path in (*map(folder.report, ("html", "md", "csv")), folder.evaluation):
        path.write_text("{}")
    check_trackers([name])
    tracker = TRACKERS[name](Job(small_config(name), folder, "evaluate", "run-1"))
    tracker.log(1, METRICS)
    tracker.table(1, {"prompt": ["p"], "completion": ["y"], "a": [0.25]})
    tracker.evaluation(evaluation({"a": value_result(realized=Estimate(1.48, 1.4, 1.6))}))
    tracker.close(failed=False)
    assert READERS[name](folder) == METRICS


@pytest.fixture
def added(monkeypatch):
    """A tracker that is one line more in TRACKERS."""
    monkeypatch.setitem(TRACKERS, "mlflow", ListTracker)
    monkeypatch.setattr(ListTracker, "calls", [])
    return ListTracker.calls


def test_a_new_tracker_is_a_class_and_a_line_in_the_table(world, tmp_path, added):
    settings = ["+tracking.trackers.mlflow=true", "tracking.completions_every=2"]
    assert main(["run", *own(world, tmp_path, *SMALL, *settings)]) == 0
    [folder] = map(RunFolder, tmp_path.glob("run-*"))
    logged = [call for call in added if call[0] == "log" and "map/scores/vowels" in call[3]]
    lines = [json.loads(line) for line in folder.logs.read_text().splitlines()]
    for (_, job, step, metrics), line in zip(logged, (x for x in lines if "map/scores/vowels" in x), strict=True):
        assert (job, step) == ("simultaneous", line["step"])
        assert metrics == pytest.approx({name: x for name, x in line.items() if isinstance(x, int | float)})
    columns = next(call[3] for call in added if call[0] == "table")
    assert columns["vowels"] == pytest.approx(worlds.vowels(columns["prompt"], columns["completion"]))
    [evaluated] = [call for call in added if call[0] == "evaluation"]
    assert evaluated[2].to_dict() | {"tracked": True} == json.loads(folder.evaluation.read_text())
    assert [call for call in added if call[0] == "close"] == [
        ("close", "simultaneous", False),
        ("close", "evaluate", False),
    ]


def test_a_misspelt_method_is_an_error_of_the_caller(tmp_path, added):
    tracker = GuardedTracker("mlflow", Job(small_config("mlflow"), RunFolder(tmp_path), "simultaneous", "run-1"))
    tracker.log(1, METRICS)
    with pytest.raises(AttributeError, match="lgo"):
        tracker.lgo(1, METRICS)
    assert not tracker.failed


def test_a_failing_tracker_is_switched_off_with_one_warning(tmp_path, added, monkeypatch, caplog):
    def failing(*_):
        raise OSError("no connection")

    monkeypatch.setattr(ListTracker, "log", failing)
    tracker = GuardedTracker("mlflow", Job(small_config("mlflow"), RunFolder(tmp_path), "simultaneous", "run-1"))
    with caplog.at_level(logging.WARNING):
        for step in range(3):
            tracker.log(step, METRICS)
        tracker.table(3, {})
        tracker.close(failed=False)
    [warning] = caplog.messages
    assert warning == "tracking=mlflow failed and is switched off; logs.jsonl is complete: no connection"
    assert added == []


def test_a_tracker_without_a_required_method_is_an_error_before_any_work(monkeypatch):
    class Incomplete(Tracker):
        package, install = "json", ""

        def lgo(self, step, metrics):
            """Misspelt."""

        def close(self, failed):
            """Nothing."""

    monkeypatch.setitem(TRACKERS, "mlflow", Incomplete)
    with pytest.raises(AssertionError, match="Incomplete does not implement log"):
        check_trackers(["mlflow"])


def test_unknown_and_missing_trackers_are_one_sentence_before_any_work(world, tmp_path, capfd, monkeypatch, added):
    monkeypatch.setattr(ListTracker, "package", "no_such_package")
    monkeypatch.setattr(ListTracker, "install", "pip install no-such-package")
    for name, sentence in (
        ("mlfow", "The tracker 'mlfow' in tracking.trackers is unknown; use one of wandb, tensorboard, mlflow."),
        (
            "mlflow",
            "tracking=mlflow needs the package no_such_package, which is not installed; run pip install "
            "no-such-package, or choose another tracker.",
        ),
    ):
        assert main(["run", *own(world, tmp_path / "runs", f"+tracking.trackers.{name}=true")]) == 2
        assert capfd.readouterr().err == f"mapft: {sentence}\n"
    assert not (tmp_path / "runs").exists()
    with pytest.raises(UserError, match="unknown"):
        check_trackers(["mlfow"])


@pytest.mark.parametrize(
    ("choice", "names"),
    [("none", []), ("wandb", ["wandb"]), ("tensorboard", ["tensorboard"]), ("[wandb,tensorboard]", None)],
)
def test_the_group_tracking_sets_the_trackers(choice, names):
    config = small_config(tracking=choice)
    assert config.tracking.names() == (names if names is not None else ["wandb", "tensorboard"])
    switched_off = dataclasses.replace(config.tracking, trackers=dict.fromkeys(TRACKERS, False))
    assert switched_off.names() == []
