"""Undisturbed runs, each in a new interpreter: what every disturbed one must end as."""

import os
import subprocess
import sys

import pytest

from tests import worlds
from tests.faults.victim import settings

SEQUENTIAL = ["mode=sequential", "mode.rounds=1", "mode.visit_episodes=96", "mode.smallest_step=0"]


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """{mode: (settings, run folder)} of runs that nobody disturbed, and the world."""
    folder = tmp_path_factory.mktemp("undisturbed")
    world = worlds.build(folder / "world")
    runs = {}
    for name, mode in (("simultaneous", []), ("sequential", SEQUENTIAL)):
        command = [sys.executable, "-m", "mapft", "export", *settings(world, folder / name), *mode]
        environment = os.environ | {"CALLS": str(folder / f"{name}.calls"), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        runs[name] = (mode, folder / name / "run")
    return world, runs
