"""Sweeps over palettes, and `mapft pareto`. Truth: what is on disk, and the pilot's own front."""

import csv
import json

import pandas as pd
import pytest

from mapft.cli import main
from tests import worlds
from tests.test_cli import SMALL, entries, own


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """Two palettes, and one that asks for a quantile of 2; run twice."""
    folder = tmp_path_factory.mktemp("sweep")
    world = worlds.build(folder / "world")
    overrides = own(world, folder / "runs", *SMALL, "+palette.quantiles.judge=0.55", palette="palette.name=swept")
    command = ["run", "-m", *overrides, "+palette.quantiles.vowels=0.5,2,0.6"]
    return folder / "runs", command, main(command)


def test_a_job_that_fails_does_not_lose_the_others(swept, capfd):
    runs, command, code = swept
    assert code == 2
    assert len(list(runs.glob("run-swept-*/evaluation.json"))) == 2
    before = {path: path.stat().st_mtime_ns for path in runs.rglob("*") if path.is_file() and path.suffix != ".lock"}
    assert main(command) == 2
    said = capfd.readouterr()
    assert said.out.count("Promised and realized") == 2
    assert "palette.quantiles.vowels=2" in said.err
    assert "quantile 2.0 of value 'vowels' is outside [0, 1]" in said.err
    after = {path: path.stat().st_mtime_ns for path in runs.rglob("*") if path.is_file() and path.suffix != ".lock"}
    assert after == before


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


def test_pareto_wants_a_folder_of_runs(tmp_path, capfd):
    for words, said in (([], "given nothing"), ([str(tmp_path)], "holds no run that has been evaluated")):
        assert main(["pareto", *words]) == 2
        assert said in capfd.readouterr().err
