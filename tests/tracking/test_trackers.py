"""Runs with Weights & Biases and TensorBoard. Truth: the files they wrote offline, read back, and logs.jsonl."""

import json
import re
from types import SimpleNamespace

import pytest
import wandb
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb_workspaces.workspaces.internal import View

from mapft.cli import main
from mapft.tracking.callback import Tracking
from mapft.tracking.glossary import METRICS
from mapft.tracking.trackers.wandb import WandbTracker
from tests import worlds
from tests.tracking.wandb_file import read
from tests.worlds import SMALL, own


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return worlds.build(tmp_path_factory.mktemp("world"))


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")


def lines_of(folder):
    return [json.loads(line) for line in (folder / "logs.jsonl").read_text().splitlines()]


def wandb_runs(folder):
    """By job type, every offline file, oldest first."""
    records: dict = {}
    for path in sorted(folder.rglob("*.wandb")):
        record = read(path)
        records.setdefault(record["run"].job_type, []).append(record)
    return records


def test_offline_files_hold_every_metric_of_the_glossary_and_every_artifact(world, tmp_path):
    more = ["tracking=[wandb,tensorboard]", "tracking.completions_every=2", "refine.every=2"]
    assert main(["run", *own(world, tmp_path, *SMALL, *more)]) == 0
    [folder] = tmp_path.glob("run-*")
    lines, runs = lines_of(folder), wandb_runs(folder)
    [train], [evaluate] = runs["simultaneous"], runs["evaluate"]
    seen = {key for row in train["history"] for key in row} | set(train["summary"])
    patterns = {name: re.compile(re.sub(r"\\{\w+\\}", r"[^/]+", re.escape(name)) + "$") for name in METRICS}
    missing = [name for name, pattern in patterns.items() if not any(map(pattern.match, seen))]
    assert all(name.startswith("engine/") for name in missing)  # another engine than transformers logs those
    emitted = {key for line in lines for key in line}
    assert [key for key in emitted if not any(pattern.match(key) for pattern in patterns.values())] == []
    by_step = {row["_step"]: row for row in train["history"] if "map/scores/vowels" in row}
    for line in lines:
        if "map/scores/vowels" in line:
            same = by_step[line["step"]]
            for name in ("map/scores/vowels", "map/lam/vowels", "map/target/vowels", "objective/kl", "objective/ess"):
                assert same[name] == pytest.approx(line[name])
            assert same["episodes"] == line["episodes"] <= 128
    assert train["config"]["palette"]["quantiles"] == {"vowels": 0.6}
    assert (train["run"].run_group, train["run"].project) == (folder.name, "mapft")
    kinds = {"score-matrix", "dual-solution", "refinement", "model", "run_table"}
    assert set(train["artifacts"].values()) == kinds
    assert {metric.step_metric for metric in train["metrics"] if metric.glob_name == "*"} == {"episodes"}
    summary = json.loads((folder / "evaluation.json").read_text())
    assert evaluate["summary"]["evaluation/realized_mean/vowels"] == summary["values"]["vowels"]["realized"]["mean"]
    assert evaluate["summary"]["evaluation/kl_to_target_mean"] == summary["kl_to_target"]["mean"]
    assert evaluate["run"].run_group == folder.name
    assert {"report", "score-matrix", "dual-solution"} <= set(evaluate["artifacts"].values())
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    scalars = {point.step: point.value for point in events.Scalars("map/scores/vowels")}
    assert scalars == {r["episodes"]: pytest.approx(r["map/scores/vowels"]) for r in lines if "map/scores/vowels" in r}


def test_the_table_holds_the_completions_with_their_scores(world, tmp_path):
    arguments = own(world, tmp_path, *SMALL, "tracking=wandb", "tracking.completions_every=2")
    assert main(["train", *arguments]) == 0
    tables = sorted(tmp_path.rglob("*completions*.table.json"))
    assert len(tables) == 2  # 4 iterations
    table = json.loads(tables[0].read_text())
    assert table["columns"] == ["prompt", "completion", "reward/palette", "judge", "vowels"]
    for row in table["data"]:
        cells = dict(zip(table["columns"], row, strict=True))
        assert cells["vowels"] == pytest.approx(worlds.vowels([cells["prompt"]], [cells["completion"]])[0])


def test_a_resumed_training_continues_its_wandb_run(world, tmp_path, monkeypatch, capfd):
    overrides = [*own(world, tmp_path, *SMALL, "tracking=wandb", "trainer.save_steps=8")]
    saved = Tracking.on_step_end

    def stop(self, args, state, control, **more):
        saved(self, args, state, control, **more)
        if state.global_step == 14 and not (tmp_path / "stopped").exists():
            (tmp_path / "stopped").touch()
            raise RuntimeError("the machine went away")

    monkeypatch.setattr(Tracking, "on_step_end", stop)
    assert main(["train", *overrides]) == 1
    assert "the machine went away" in capfd.readouterr().err
    assert main(["train", *overrides]) == 0
    [folder] = tmp_path.glob("run-*")
    first, second = wandb_runs(folder)["simultaneous"]
    assert first["run"].run_id == second["run"].run_id
    assert max(row["_step"] for row in first["history"]) == 13
    assert next(row["step"] for row in second["history"] if "objective/kl" in row) == 9
    assert not any(kind == "model" for kind in first["artifacts"].values())


@pytest.mark.parametrize("fails", ["init", "log"])
def test_a_tracker_that_fails_never_stops_a_training(world, tmp_path, monkeypatch, caplog, fails):
    def broken(*_, **__):
        raise OSError("no space left for W&B")

    monkeypatch.setattr(*((wandb, "init") if fails == "init" else (wandb.Run, "log")), broken)
    assert main(["train", *own(world, tmp_path, *SMALL, "tracking=wandb")]) == 0
    assert len([record for record in caplog.records if "no space left for W&B" in record.message]) == 1
    [folder] = tmp_path.glob("run-*")
    assert (folder / "adapter").exists()
    assert lines_of(folder)[-1]["episodes"] == 128
    if wandb.run is not None:
        wandb.finish()


def test_messages_are_texts_in_the_table(tmp_path):
    """A reasoning model's messages have keys of their own, which a table's columns cannot have."""
    completions = [
        [{"role": "assistant", "content": "yes", "reasoning_content": "hm"}],
        [{"role": "assistant", "content": "no"}],
    ]
    rows = []
    run = SimpleNamespace(log=lambda logged, step: rows.extend(logged["completions"].data))
    WandbTracker.table(
        SimpleNamespace(run=run), 1, {"prompt": ["a", "b"], "completion": completions, "vowels": [1.0, 2.0]}
    )
    assert rows == [["a", "yes", 1.0], ["b", "no", 2.0]]


def test_an_evaluation_that_was_not_tracked_is_tracked_by_the_next_command(world, tmp_path, monkeypatch, caplog):
    arguments = ["run", *own(world, tmp_path, *SMALL, "tracking=wandb")]
    working = wandb.init

    def broken(*_, job_type, **more):
        if job_type == "evaluate":
            raise OSError("no way to W&B")
        return working(*_, job_type=job_type, **more)

    monkeypatch.setattr(wandb, "init", broken)
    assert main(arguments) == 0
    assert any("no way to W&B" in record.message for record in caplog.records)
    assert "evaluate" not in wandb_runs(tmp_path)
    monkeypatch.setattr(wandb, "init", working)
    assert main(arguments) == 0
    assert len(wandb_runs(tmp_path)["evaluate"]) == 1
    assert main(arguments) == 0
    assert len(wandb_runs(tmp_path)["evaluate"]) == 1


def test_visits_of_a_sequential_run_are_in_one_group(world, tmp_path):
    more = ["mode=sequential", "mode.visit_episodes=32", "mode.rounds=1", "tracking=wandb", "tracking.group=mine"]
    palette = "+palette.sd={vowels: 0.3, judge: 0.3}"
    assert main(["train", *own(world, tmp_path, *SMALL, *more, palette=palette)]) == 0
    runs = wandb_runs(tmp_path)
    assert {"001-vowels", "002-judge"} & set(runs)
    assert {record["run"].run_group for records in runs.values() for record in records} == {"mine"}


def test_the_dashboard_is_saved_as_json_where_wandb_is_offline(world, tmp_path, capfd):
    assert main(["dashboard", *own(world, tmp_path, "tracking.entity=us")]) == 0
    assert "not pushed: WANDB_MODE=offline" in capfd.readouterr().out
    text = (tmp_path / "dashboard.json").read_text()
    page = json.loads(text)
    assert (page["entity"], page["project"]) == ("us", "mapft")
    sections = {s["name"]: s["panels"] for s in page["spec"]["section"]["panelBankConfig"]["sections"]}
    assert list(sections)[:5] == ["Levels", "Lambda", "Price", "Convergence", "Samples"]
    band = ["map/scores_low/vowels", "map/scores_high/vowels"]
    assert sections["Levels"][0]["config"]["metrics"] == ["map/scores/vowels", *band, "map/target/vowels"]
    assert sections["Lambda"][0]["config"]["metrics"] == [f"map/lam{end}/vowels" for end in ("", "_low", "_high")]
    assert sections["Price"][0]["config"]["metrics"] == ["objective/kl", "objective/kl_least"]
    assert sections["Levels"][0]["config"]["xAxis"] == "episodes"
    assert json.loads(View.model_validate(page).model_dump_json(by_alias=True, exclude_none=True)) == page
    plotted = set(re.findall(r'"((?:map|objective|policy|val|critic|loss|timing|memory|completions)/[\w/]+)"', text))
    known = {re.sub(r"\{\w+\}", value, name) for name in METRICS for value in ("vowels", "judge")}
    assert plotted <= known
