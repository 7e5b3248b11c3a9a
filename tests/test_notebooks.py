"""The notebooks run from top to bottom. Truth: their own assertions, under nbmake, on a copy in an empty folder."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


def cells(path: Path) -> list[dict[str, object]]:
    return [cell for cell in json.loads(path.read_text("utf-8"))["cells"] if cell["cell_type"] == "code"]


def test_there_are_four():
    assert [path.stem[:2] for path in NOTEBOOKS] == ["01", "02", "03", "04"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_stripped_and_pictures_kept(path):
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells(path))
    drawn = re.findall(r"figures/\w+\.png", path.read_text("utf-8"))
    assert drawn
    assert all((path.parent / picture).exists() for picture in drawn)


def run(path: Path, folder: Path, **variables: str) -> None:
    """A copy in this folder, which then has its figures."""
    (folder / "figures").mkdir()
    shutil.copy(path, folder)
    options = ["--nbmake", "--nbmake-timeout", "3600", "--rootdir", str(folder)]
    command = [sys.executable, "-m", "pytest", *options, str(folder / path.name)]
    done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert {picture.name for picture in (folder / "figures").iterdir()} == {
        name.partition("/")[2] for name in re.findall(r"figures/\w+\.png", path.read_text("utf-8"))
    }


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS[:3], ids=lambda path: path.stem)
def test_runs(path, tmp_path):
    """The fourth runs in test_smollm2.py, on its run."""
    run(path, tmp_path)
