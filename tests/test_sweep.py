"""Sweeps over palettes, and `mapft pareto`. Truth: what is on disk, and the pilot's own front."""

import csv
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

from mapft import launching
from mapft.cli import main
from mapft.errors import UserError
from tests import worlds
from tests.test_cli import entries
from tests.worlds import SMALL, own


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """Two palettes, and one that asks for a quantile of 2; run twice."""
    folder = tmp_path_factory.mktemp("sweep")
    world = worlds.build(folder / "world")
    overrides = own(world, folder / "runs", *SMALL, "+palette.quantiles.judge=0.55", palette="palette.name=swept")
    command = ["run", "-m", *overrides, "+palette.quantiles.vowels=0.5,2,0.6"]
    return folder / "runs", command, main(command)


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
    before = {run: unchanged(run) for run in [*runs.glob("run-*"), *entries(runs / "store")]}
    assert main(command) == 2
    said = capfd.readouterr()
    assert said.out.count("Promised and realized") == 2
    assert "palette.quantiles.vowels=2" in said.err
    assert "quantile 2.0 of value 'vowels' is outside [0, 1]" in said.err
    assert {run: unchanged(run) for run in [*runs.glob("run-*"), *entries(runs / "store")]} == before


def test_all_jobs_share_one_pilot(swept):
    runs, _, _ = swept
    kinds = [path.name.split("-")[0] for path in entries(runs / "store")]
    assert kinds.count("samples") == 1
    assert len([path for path in (runs / "store").iterdir() if path.name.startswith("score-vowels")]) == 4


def test_pareto_gathers_the_runs(swept, capfd):
    runs, _, _ = swept
    assert main(["pareto", str(runs)]) == 0
    printed = capfd.readouterr().out
    assert printed.count("| swept |") == 2
    rows = list(csv.DictReader((runs / "pareto.csv").read_text().splitlines()))
    for row in rows:
        summary = json.loads((runs / row["run"] / "evaluation.json").read_text())
        assert float(row["vowels"]) == pytest.approx(summary["values"]["vowels"]["realized"]["mean"])
        assert float(row["kl_predicted"]) == pytest.approx(summary["kl_predicted"])
    assert pd.Series([float(row["kl_predicted"]) for row in rows]).is_monotonic_increasing
    assert {"pareto.svg", "pareto.png", "pareto.md"} <= {path.name for path in runs.iterdir()}


def test_a_sweep_is_refused_in_several_processes(monkeypatch, capfd):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["run", "-m", "palette=hhh_50,hhh_60"]) == 2
    assert "A sweep (-m) runs its jobs from one process" in capfd.readouterr().err


def test_pareto_wants_a_folder_of_runs(tmp_path, capfd):
    for words, said in (
        ([], "given nothing"),
        ([str(tmp_path / "none")], "is no folder"),
        ([str(tmp_path)], "holds no run that has been evaluated"),
    ):
        assert main(["pareto", *words]) == 2
        assert said in capfd.readouterr().err


@pytest.mark.slow
def test_a_killed_job_is_all_that_is_done_again(tmp_path):
    world = worlds.build(tmp_path / "world")
    overrides = own(world, tmp_path / "runs", *SMALL, "trainer.save_steps=8", palette="palette.name=swept")
    command = [sys.executable, "-m", "mapft.cli", "run", "-m", *overrides, "+palette.quantiles.vowels=0.6,0.7"]
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
def test_jobs_side_by_side_draw_one_pilot(tmp_path, monkeypatch):
    world = worlds.build(tmp_path / "world")
    monkeypatch.setenv("MAPFT_TEST_CALLS", str(tmp_path / "calls"))
    overrides = own(world, tmp_path / "runs", *SMALL, palette="palette.name=swept")
    overrides += ["++rewards.vowels.target=tests.test_sweep:counted"]
    launcher = ["hydra/launcher=gpus", "hydra.launcher.n_jobs=2"]
    assert main(["run", "-m", *overrides, *launcher, "+palette.quantiles.vowels=0.5,0.6"]) == 0
    pilot = len(pd.read_parquet(next((tmp_path / "runs").glob("run-*/samples.parquet"))))
    assert (tmp_path / "calls").read_text().split().count(str(pilot)) == 1
    assert len(list((tmp_path / "runs").glob("run-swept-*/evaluation.json"))) == 2
    kinds = [path.name.split("-")[0] for path in entries(tmp_path / "runs" / "store")]
    assert kinds.count("samples") == 1
    assert kinds.count("evaluation") == 5  # the base policy's, and two for each: tuned and decoding


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # the sweeper's Optuna is an old one
def test_optuna_maximises_what_ppo_attained(tmp_path):
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
        attained.append(sum(lam[v] * values[v]["realized"]["mean"] for v in lam) - summary["kl"]["mean"])
    assert len(attained) == 2
    assert found["best_value"] == pytest.approx(max(attained))


def test_each_process_of_a_sweep_claims_its_own_gpu(tmp_path, monkeypatch):
    monkeypatch.setattr(launching, "gpus", lambda: 2)
    monkeypatch.setattr(launching, "_CLAIMED", [])
    monkeypatch.setattr(launching.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    launching.claim_gpu("BasicLauncher")
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
    launching.claim_gpu("JoblibLauncher")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"
    launching.claim_gpu("JoblibLauncher")  # its next job
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"
    other = (
        "import sys, os, tempfile; from mapft import launching; launching.gpus = lambda: 2; "
        "tempfile.gettempdir = lambda: sys.argv[1]; launching.claim_gpu('JoblibLauncher'); "
        "print(os.environ['CUDA_VISIBLE_DEVICES'])"
    )
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    said = subprocess.run(
        [sys.executable, "-c", other, str(tmp_path)], env=environment, capture_output=True, text=True, check=True
    )
    assert said.stdout.strip() == "1"
    monkeypatch.setattr(launching, "_CLAIMED", [])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(UserError, match="Another sweep holds every GPU"):
        launching.claim_gpu("JoblibLauncher")
