"""Sweeps over palettes. Truth: what is on disk."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml

from mapft.cli import main
from tests import worlds
from tests.worlds import SMALL, entries, own


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """The runs of a sweep, its command and its exit code."""
    runs, command = worlds.sweep(tmp_path_factory.mktemp("sweep"))
    return runs, command, main(command)


def counted(prompts, completions, **_):
    """worlds.vowels; how many rows it was asked for goes to a file."""
    with Path(os.environ["MAPFT_TEST_CALLS"]).open("a") as file:
        file.write(f"{len(prompts)}\n")
    return worlds.vowels(prompts, completions)


def unchanged(folder):
    """Every file of a run and when it was written."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


def test_a_job_that_fails_does_not_lose_the_others(swept, capfd):
    runs, command, code = swept
    assert code == 2
    assert len(list(runs.glob("run-swept-*/evaluation.json"))) == 2
    before = {run: unchanged(run) for run in [*runs.glob("run-*"), *entries(runs / "cache")]}
    assert main(command) == 2
    said = capfd.readouterr()
    assert said.out.count("Predicted and realized") == 2
    assert "mapft: +palette.quantiles.vowels=2: the quantile 2.0 of value 'vowels' is outside [0, 1]" in said.err
    assert {run: unchanged(run) for run in [*runs.glob("run-*"), *entries(runs / "cache")]} == before


def test_all_jobs_share_one_pilot(swept):
    runs, _, _ = swept
    kinds = [path.name.split("-")[0] for path in entries(runs / "cache")]
    assert kinds.count("samples") == 1
    assert len([path for path in (runs / "cache").iterdir() if path.name.startswith("score-vowels")]) == 4


def test_a_sweep_is_refused_in_several_processes(monkeypatch, capfd):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["run", "-m", "palette=hhh_50,hhh_60"]) == 2
    assert "A sweep (-m) runs its jobs from one process" in capfd.readouterr().err


@pytest.mark.slow
def test_only_the_killed_job_is_repeated(tmp_path):
    world = worlds.build(tmp_path / "world")
    overrides = own(world, tmp_path / "runs", *SMALL, "trainer.save_steps=8", palette="palette.name=swept")
    command = [sys.executable, "-m", "mapft", "run", "-m", *overrides, "+palette.quantiles.vowels=0.6,0.7"]
    sweep = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    begun: list[Path] = []
    while len(begun) < 2:  # the second job has a checkpoint
        assert sweep.poll() is None, "the sweep ended before it could be killed"
        begun = sorted({path.parents[2] for path in (tmp_path / "runs").glob("run-*/checkpoints/*/refinement.json")})
        time.sleep(0.01)
    sweep.send_signal(signal.SIGKILL)
    sweep.wait()
    done = {folder for folder in begun if (folder / "evaluation.json").exists()}
    [killed] = set(begun) - done
    [first] = done
    before, logged = unchanged(first), (killed / "logs.jsonl").read_text().splitlines()
    assert main(command[3:]) == 0
    assert (killed / "evaluation.json").exists()
    assert unchanged(first) == before
    kept = [line for line in logged if json.loads(line)["step"] <= 8]
    assert (killed / "logs.jsonl").read_text().splitlines()[: len(kept)] == kept


@pytest.mark.slow
def test_concurrent_jobs_share_one_pilot(tmp_path, monkeypatch):
    world = worlds.build(tmp_path / "world")
    monkeypatch.setenv("MAPFT_TEST_CALLS", str(tmp_path / "calls"))
    overrides = own(world, tmp_path / "runs", *SMALL, palette="palette.name=swept")
    overrides += ["++rewards.vowels.target=tests.config.test_sweeps:counted"]
    launcher = ["hydra/launcher=gpus", "hydra.launcher.n_jobs=2"]
    assert main(["run", "-m", *overrides, *launcher, "+palette.quantiles.vowels=0.5,0.6"]) == 0
    pilot = len(pd.read_parquet(next((tmp_path / "runs").glob("run-*/samples.parquet"))))
    assert (tmp_path / "calls").read_text().split().count(str(pilot)) == 1
    assert len(list((tmp_path / "runs").glob("run-swept-*/evaluation.json"))) == 2
    kinds = [path.name.split("-")[0] for path in entries(tmp_path / "runs" / "cache")]
    assert kinds.count("samples") == 1
    assert kinds.count("evaluation") == 3  # the base policy's, and the tuned policy of each


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # the sweeper's Optuna is an old one
def test_optuna_maximises_the_objective(tmp_path):
    pytest.importorskip("optuna", reason="Optuna is not installed (pip install 'mapft[sweeps]')")
    world = worlds.build(tmp_path / "world")
    overrides = own(world, tmp_path / "runs", *SMALL, "+palette.quantiles.judge=0.55", palette="palette.name=swept")
    sweeper = ["hydra/sweeper=ppo", "hydra.sweeper.n_trials=2"]
    assert main(["run", "-m", *overrides, *sweeper, "+palette.quantiles.vowels=0.6"]) == 0
    found = yaml.safe_load((tmp_path / "runs" / "optimization_results.yaml").read_text())
    attained = []
    for path in (tmp_path / "runs").glob("run-swept-*/evaluation.json"):
        summary = json.loads(path.read_text())
        lam, values = summary["solution"]["lam"], summary["values"]
        attained.append(
            sum(lam[v] * values[v]["realized"]["mean"] for v in lam) - summary["policies"]["tuned"]["kl"]["mean"]
        )
    assert len(attained) == 2
    assert found["best_value"] == pytest.approx(max(attained))
