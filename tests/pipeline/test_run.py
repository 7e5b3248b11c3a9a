"""Runs from the command line, their lock, folder and cache. Truth: what is on disk, and an uninterrupted run."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from filelock import FileLock

from mapft.cli import main
from mapft.tracking.glossary import METRICS
from tests import worlds
from tests.worlds import SMALL, entries, own


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return worlds.build(tmp_path_factory.mktemp("world"))


def test_a_run_on_a_users_own_model_prompts_and_rewards(world, tmp_path, capfd):
    """GPT-2, its own tokenizer, English questions, a Python function and a BERT judge: nothing of the playground."""
    arguments = ["run", *own(world, tmp_path, *SMALL, "refine.every=2")]
    assert main(arguments) == 0
    printed = capfd.readouterr().out
    assert "Predicted and realized" in printed
    [folder] = [path for path in tmp_path.iterdir() if path.name.startswith("run-custom-")]
    summary = json.loads((folder / "evaluation.json").read_text())
    assert summary["values"]["judge"]["target"] is None
    assert summary["values"]["judge"]["lam"] == 0
    vowels = summary["values"]["vowels"]
    assert vowels["lam"] > 0
    assert vowels["realized"]["low"] < vowels["realized"]["mean"] < vowels["realized"]["high"]
    assert vowels["gap_sd"] == pytest.approx((vowels["realized"]["mean"] - vowels["target"]) / vowels["sd"])
    for artifact in ("config.json", "samples.parquet", "scores.parquet", "solution.json", "report.md", "logs.jsonl"):
        assert (folder / artifact).stat().st_size > 0
    assert (folder / "adapter" / "adapter_model.safetensors").exists()
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name != ".lock"}
    assert main(arguments) == 0
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name != ".lock"} == before
    assert capfd.readouterr().out.count("Predicted and realized") == 1
    assert main([*arguments, "evaluation.samples_per_prompt=8", "evaluation.confidence=0.5"]) == 0
    after = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name != ".lock"}
    changed = {path.name for path in after if path.is_file() and after[path] != before.get(path)}
    tables = {f"evaluation_{name}.parquet" for name in ("base", "tuned")}
    pictures = {path.name for path in (folder / "figures").iterdir()}
    assert changed == {"evaluation.json", "report.md", "report.csv", "report.html"} | tables | pictures
    narrow = json.loads((folder / "evaluation.json").read_text())["values"]["vowels"]["realized"]
    assert narrow["high"] - narrow["low"] < 0.6 * (vowels["realized"]["high"] - vowels["realized"]["low"])
    assert emitted(folder / "logs.jsonl") == {name for name in METRICS if not name.startswith("engine/")}


def emitted(logs: Path) -> set[str]:
    """Names of all metrics, with the names of values and reward functions taken out."""
    names = {name for line in logs.read_text().splitlines() for name in json.loads(line)}
    names = {re.sub(r"^(map/\w+)/(vowels|judge)$", r"\1/{value}", name) for name in names}
    return {re.sub(r"^rewards/palette/", "rewards/{function}/", name) for name in names}


def test_a_locked_run_is_refused(world, tmp_path, capfd):
    arguments = own(world, tmp_path)
    assert main(["score", *arguments]) == 0
    [folder] = tmp_path.glob("run-*")
    with FileLock(folder / ".lock"):
        assert main(["solve", *arguments]) == 2
    assert f"{folder} is locked by another process" in capfd.readouterr().err
    assert main(["solve", *arguments]) == 0


def test_runs_with_the_same_sampling_share_samples_and_scores(world, tmp_path, capfd):
    """Another palette reuses samples and scores; another seed does not."""
    assert main(["sample", *own(world, tmp_path)]) == 0
    assert main(["solve", *own(world, tmp_path)]) == 0
    assert main(["solve", *own(world, tmp_path, "palette.quantiles.vowels=0.7")]) == 0
    assert "nats" in capfd.readouterr().out
    assert main(["solve", *own(world, tmp_path), "--json"]) == 0
    solution = json.loads(capfd.readouterr().out)
    assert solution["status"] == "optimal"
    assert solution["lam"]["vowels"] > 0
    assert sorted(p.name.split("-")[0] for p in entries(tmp_path / "cache")) == ["prompts", "samples", "score", "score"]
    assert main(["sample", *own(world, tmp_path, "seed=1")]) == 0
    assert len(entries(tmp_path / "cache")) == 5


def test_scores_are_cached_by_value_and_batch_sizes_do_not_matter(world, tmp_path):
    assert main(["score", *own(world, tmp_path)]) == 0
    [folder] = [path for path in tmp_path.iterdir() if path.name != "cache"]
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").glob("[!.]*/**/*") if path.is_file()}
    assert main(["score", *own(world, tmp_path, "+rewards.judge.batch_tokens=100")]) == 0
    assert [path for path in tmp_path.iterdir() if path.name != "cache"] == [folder]
    assert main(["score", *own(world, tmp_path, "+rewards.brief={kind: length, sign: -1}")]) == 0
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").glob("[!.]*/**/*") if path.is_file()}
    assert {path.parent.name.split("-")[1] for path in after.keys() - before.keys()} == {"brief"}
    assert all(after[path] == before[path] for path in before)


def test_two_concurrent_runs_share_the_cache(world, tmp_path):
    """Both begin with nothing and write the same scores."""
    command = [sys.executable, "-m", "mapft", "score", *own(world, tmp_path)]
    runs = [
        subprocess.Popen([*command, f"palette.quantiles.vowels={q}"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        for q in (0.6, 0.7)
    ]
    for run in runs:
        _, said = run.communicate(timeout=300)
        assert run.returncode == 0, said
    assert sorted(path.name.split("-")[0] for path in entries(tmp_path / "cache")) == [
        "prompts",
        "samples",
        "score",
        "score",
    ]
    first, second = (pd.read_parquet(path) for path in sorted(tmp_path.glob("run-*/scores.parquet")))
    pd.testing.assert_frame_equal(first, second)


def test_a_changed_reward_model_invalidates_its_scores(tmp_path):
    paths = worlds.build(tmp_path)
    assert main(["score", *own(paths, tmp_path / "runs")]) == 0
    weights = paths["judge"] / "model.safetensors"
    weights.write_bytes(weights.read_bytes())
    assert main(["score", *own(paths, tmp_path / "runs")]) == 0
    kinds = [path.name.split("-")[0] for path in entries(tmp_path / "runs" / "cache")]
    assert sorted(kinds) == ["prompts", "samples", "score", "score", "score"]


def test_a_changed_reward_function_invalidates_its_scores(world, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "my_scores.py"
    source.write_text("def length(prompts, completions): return [float(len(c)) for c in completions]")
    overrides = own(world, tmp_path / "runs", "rewards.vowels.target=my_scores:length")
    assert main(["score", *overrides]) == 0
    source.write_text("def length(prompts, completions): return [float(len(c)) ** 2 for c in completions]")
    assert main(["score", *overrides]) == 0
    kinds = [path.name.split("-")[0] for path in entries(tmp_path / "runs" / "cache")]
    assert sorted(kinds) == ["prompts", "samples", "score", "score", "score"]


def test_the_folder_of_another_run_is_refused(world, tmp_path, capfd):
    folder = f"run_dir={tmp_path / 'mine'}"
    assert main(["sample", *own(world, tmp_path, folder)]) == 0
    before = (tmp_path / "mine" / "config.json").read_bytes()
    assert main(["sample", *own(world, tmp_path, folder, "seed=5")]) == 2
    assert "belongs to a run with other settings" in capfd.readouterr().err
    assert (tmp_path / "mine" / "config.json").read_bytes() == before
