"""axe-core from the npm registry: accessibility faults of a page that a browser shows."""

import io
import shutil
import subprocess
import tarfile
from functools import cache
from pathlib import Path
from typing import Any

SERIOUS = {"serious", "critical"}
PACKAGE = "axe-core@4.10"


@cache
def source() -> str | None:
    """The script, or None where npm or its registry cannot be had."""
    import tempfile

    if shutil.which("npm") is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        packed = subprocess.run(
            ["npm", "pack", PACKAGE, "--silent"], cwd=folder, capture_output=True, text=True, check=False
        )
        if packed.returncode:
            return None
        archive = (Path(folder) / packed.stdout.split()[-1]).read_bytes()
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        script = files.extractfile("package/axe.min.js")
        assert script is not None
        return script.read().decode()


def serious_faults(page: Any) -> list[str]:
    """Rule and first element of every serious fault."""
    page.evaluate(source())
    found = page.evaluate("axe.run()")["violations"]
    return [f"{fault['id']}: {fault['nodes'][0]['html']}" for fault in found if fault["impact"] in SERIOUS]
