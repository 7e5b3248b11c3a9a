"""The wheel. Truth: the files of the repository, and a run composed by the wheel outside of it."""

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from mapft.config.launch import LAUNCHERS

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with the content of the wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    build = "import hatchling.build, sys; print(hatchling.build.build_wheel(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", build, str(folder)], cwd=ROOT, check=True, capture_output=True)
    [wheel] = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "site")
    return folder / "site"


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_a_build_gives_the_same_bytes_again(tmp_path, kind):
    build = f"import hatchling.build, sys; print(hatchling.build.build_{kind}(sys.argv[1]))"
    for folder in (tmp_path / "one", tmp_path / "two"):
        subprocess.run([sys.executable, "-c", build, str(folder)], cwd=ROOT, check=True, capture_output=True)
    [one], [two] = (list(folder.iterdir()) for folder in (tmp_path / "one", tmp_path / "two"))
    assert (one.name, one.read_bytes()) == (two.name, two.read_bytes())


def files(folder: Path, pattern: str = "*") -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob(pattern) if path.is_file()}


def test_launch_has_the_configurations_of_accelerate_and_no_scripts(site):
    assert files(site / "mapft/launch") == {f"{name}.yaml" for name in LAUNCHERS}


def test_conf_is_complete(site):
    assert files(site / "mapft/conf") == files(ROOT / "conf", "*.yaml") | {"README.md"}


def test_the_package_has_its_source_data_and_readmes_and_nothing_else(site):
    package = files(site / "mapft") - {f"{name}/{file}" for name in ("conf", "launch") for file in files(ROOT / name)}
    source = {name for name in files(ROOT / "mapft") if "__pycache__" not in name}
    assert package == source
    page = {name for name in package if name.startswith("ui/static/")}
    assert {Path(name).suffix for name in page} == {".html", ".css", ".js", ".svg"}
    assert {Path(name).suffix for name in package - page} <= {".py", ".typed", ".toml", ".md", ".jinja", ".css", ".js"}
    assert {path.name.partition("-")[0] for path in site.iterdir()} == {"mapft"}


def test_a_run_composes_outside_the_repository(site, tmp_path):
    code = (
        "import sys; sys.path = [sys.argv[1]] + [p for p in sys.path if 'mapft' not in p];"
        "import mapft.cli; assert mapft.__file__.startswith(sys.argv[1]), mapft.__file__;"
        "sys.exit(mapft.cli.main(['run', '--cfg', 'job']))"
    )
    process = subprocess.run(
        [sys.executable, "-c", code, str(site)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
    assert "name: hhh_70" in process.stdout


def test_the_release_audits_every_extra_for_users():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    workflow = (ROOT / ".github/workflows/release.yml").read_text("utf-8")
    audited = re.search(r"pip install \.\[([\w,]+)\]", workflow)
    assert set(audited[1].split(",")) == set(extras) - {"dev"}
