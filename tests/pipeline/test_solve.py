"""Stage `solve`. Truth: the palette of the settings, and the dual's own certificate."""

import json

import pytest

from mapft.cli import main
from tests import worlds
from tests.worlds import own


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return worlds.build(tmp_path_factory.mktemp("world"))


def test_an_infeasible_palette_stops_before_training_and_names_the_nearest_feasible_one(world, tmp_path, capfd):
    overrides = own(world, tmp_path, palette="+palette.absolute.vowels=5.0")
    assert main(["run", *overrides]) == 2
    said = capfd.readouterr().err
    assert "no re-weighting of the base samples" in said
    assert "Margin -" in said
    assert "nearest feasible palette: vowels 5 ->" in said
    assert not list(tmp_path.rglob("adapter"))
    assert not list(tmp_path.rglob("checkpoints"))
    nearest = [*overrides, "dual.if_infeasible=nearest"]
    assert main(["solve", *nearest]) == 0
    said = capfd.readouterr().out
    assert "infeasible; this is the nearest feasible one" in said
    assert "adjusted palette" in said
    assert main(["solve", *nearest, "--json"]) == 0
    solution = json.loads(capfd.readouterr().out)
    assert solution["requested"] == {"vowels": 5.0}
    assert solution["adjusted"] is True
    assert solution["targets"]["vowels"] < 1
    assert solution["intervals"]["lam"]["vowels"]["low"] <= solution["lam"]["vowels"]
