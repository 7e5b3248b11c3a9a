"""The notebooks run from top to bottom. Truth: their own assertions, under nbmake, on a copy in an empty folder."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


def cells(path: Path) -> list[dict[str, object]]:
    return [cell for cell in json.loads(path.read_text("utf-8"))["cells"] if cell["cell_type"] == "code"]


def test_there_are_three():
    assert [path.stem[:2] for path in NOTEBOOKS] == ["01", "02", "03"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_stripped_and_pictures_kept(path):
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells(path))
    drawn = re.findall(r"figures/\w+\.png", path.read_text("utf-8"))
    assert drawn
    assert all((path.parent / picture).exists() for picture in drawn)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs(path, tmp_path):
    (tmp_path / "figures").mkdir()
    shutil.copy(path, tmp_path)
    options = ["--nbmake", "--nbmake-timeout", "3600", "--rootdir", str(tmp_path)]
    command = [sys.executable, "-m", "pytest", *options, str(tmp_path / path.name)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert {picture.name for picture in (tmp_path / "figures").iterdir()} == {
        name.partition("/")[2] for name in re.findall(r"figures/\w+\.png", path.read_text("utf-8"))
    }
