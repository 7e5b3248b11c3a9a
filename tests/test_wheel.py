"""The wheel outside the repository: conf/ and launch/ travel inside it, and the settings compose."""

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_an_installed_wheel_composes_outside_the_repository(tmp_path):
    build = "import hatchling.build, sys; print(hatchling.build.build_wheel(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", build, str(tmp_path)], cwd=ROOT, check=True, capture_output=True)
    [wheel] = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    assert (tmp_path / "site/mapft/launch/quickstart.sh").exists()
    code = (
        "import sys; sys.path = [sys.argv[1]] + [p for p in sys.path if 'mapft' not in p];"
        "import mapft.cli; assert mapft.__file__.startswith(sys.argv[1]), mapft.__file__;"
        "sys.exit(mapft.cli.main(['run', '--cfg', 'job']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "site")], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "name: hhh_70" in done.stdout
