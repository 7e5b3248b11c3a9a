"""Runs that nobody disturbed: what every disturbed one must end as."""

import pytest

from tests import worlds
from tests.faults.victim import Victim, settings

SEQUENTIAL = ["mode=sequential", "mode.rounds=1", "mode.visit_episodes=96", "mode.smallest_step=0"]


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """{mode: (settings, run folder)} of runs that nobody disturbed, and the world."""
    folder = tmp_path_factory.mktemp("undisturbed")
    world = worlds.build(folder / "world")
    runs = {}
    for name, mode in (("simultaneous", []), ("sequential", SEQUENTIAL)):
        victim = Victim("export", [*settings(world, folder / name), *mode], folder / f"{name}.calls")
        assert victim.wait() == 0, victim.said[-3000:]
        runs[name] = (mode, folder / name / "run")
    return world, runs
