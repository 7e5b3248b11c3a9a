"""`mapft pareto`. Truth: the evaluations of the runs."""

import csv
import json
import re

import pandas as pd
import pytest

from mapft.cli import main
from tests import worlds


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """The runs of a sweep."""
    runs, command = worlds.sweep(tmp_path_factory.mktemp("sweep"))
    main(command)
    return runs


def test_pareto_tabulates_the_runs(swept, capfd):
    assert main(["pareto", str(swept)]) == 0
    printed = capfd.readouterr().out
    assert len(re.findall(r"^swept \w+ +[-+]\d", printed, re.M)) == 2
    rows = list(csv.DictReader((swept / "pareto.csv").read_text().splitlines()))
    for row in rows:
        summary = json.loads((swept / row["run"] / "evaluation.json").read_text())
        assert float(row["vowels"]) == pytest.approx(summary["values"]["vowels"]["realized"]["mean"])
        assert float(row["kl_predicted"]) == pytest.approx(summary["solution"]["kl"])
    assert pd.Series([float(row["kl_predicted"]) for row in rows]).is_monotonic_increasing
    files = {path.name for path in swept.iterdir()}
    assert {"pareto.html", "pareto.svg", "pareto.png", "pareto.md", "gaps.svg", "runs.html"} <= files
    for row in rows:
        for page in ("pareto.html", "runs.html"):
            assert f'href="{row["run"]}/report.html"' in (swept / page).read_text()


def test_pareto_needs_a_folder_of_evaluated_runs(tmp_path, capfd):
    for words, said in (
        ([str(tmp_path / "none")], "is not a folder"),
        ([str(tmp_path)], "contains no run that has been evaluated"),
    ):
        assert main(["pareto", *words]) == 2
        assert said in capfd.readouterr().err
