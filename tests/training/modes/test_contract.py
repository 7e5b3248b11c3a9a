"""Facts of every mode, written down by hand; and a mode added as CONTRIBUTING says, from YAML to adapter."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from mapft.cli import main
from mapft.config import ModeConfig, Residency
from mapft.config.fields import setting
from mapft.config.run_folder import RunFolder
from mapft.training.modes import TRAINERS
from mapft.training.modes.sequential import Visit
from mapft.utils.files import write_json
from tests import worlds
from tests.worlds import own

EPISODES, PILOT = 1000, 64


@dataclass(frozen=True)
class Facts:
    """scored: responses beyond the pilot's, of a training of EPISODES and two values."""

    settings: dict
    aims_at_palette: bool
    residency: Residency | None
    scored: int


FACTS = {
    "simultaneous": Facts({}, True, Residency.auto, EPISODES),
    "sequential": Facts({"visit_episodes": 500}, True, Residency.one_at_a_time, 2 * (PILOT + 500) + PILOT),
    "scalarized": Facts({"weights": {"a": 1.0}}, False, Residency.auto, EPISODES),
    "soup": Facts({"weights": {"a": 1.0, "b": 2.0}}, False, Residency.auto, 2 * EPISODES),
    "published": Facts({}, False, Residency.auto, EPISODES),
    "dpo": Facts({}, False, None, 0),
}


@pytest.fixture
def finished_run(tmp_path):
    """The folder of a run with three visits, one of them skipped (for sequential mode)."""
    folder = RunFolder(tmp_path)
    visits = [
        Visit("a", "visits/x", 0.1, 0.1, 0.01, 0.0, 1.0, 1.0, 9.0, False, skipped, 1.0, 1.0)
        for skipped in (False, True, False)
    ]
    write_json(folder.sequential, {"visits": [asdict(visit) for visit in visits]})
    return folder


@pytest.mark.parametrize("name", TRAINERS)
def test_every_mode_has_the_facts_of_its_row(name, finished_run):
    facts = FACTS[name]
    mode = TRAINERS[name](name=name, **facts.settings)
    assert mode.aims_at_palette is facts.aims_at_palette
    assert mode.residency is facts.residency
    assert mode.scored_responses(EPISODES, PILOT, finished_run) == facts.scored


@pytest.mark.parametrize("name", TRAINERS)
def test_every_mode_has_a_file_in_conf_with_its_schema_and_name(name):
    lines = (Path(__file__).parents[3] / "conf" / "mode" / f"{name}.yaml").read_text().splitlines()
    assert f"defaults: [{name}_schema, _self_]" in lines
    assert f"name: {name}" in lines


@dataclass(kw_only=True)
class Untrained(ModeConfig):
    """A dummy mode: the adapter is a file that says so, `note`."""

    aims_at_palette: ClassVar[bool] = True
    note: str = setting("nothing", "What the adapter says.")

    def train(self, inputs):
        """adapter/ with the note."""
        inputs.folder.adapter.mkdir()
        (inputs.folder.adapter / "note.txt").write_text(f"{self.note} for {sorted(inputs.solution.lam)}")
        return inputs.solution.lam


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return worlds.build(tmp_path_factory.mktemp("world"))


def test_a_new_mode_is_a_class_a_line_in_the_table_and_a_yaml(world, tmp_path, monkeypatch, capfd):
    """Its YAML may lie in a folder of the user's (hydra.searchpath); a misspelt setting of it is refused."""
    monkeypatch.setitem(TRAINERS, "untrained", Untrained)
    (tmp_path / "conf" / "mode").mkdir(parents=True)
    (tmp_path / "conf" / "mode" / "untrained.yaml").write_text(
        "defaults: [untrained_schema, _self_]\nname: untrained\n"
    )
    run = tmp_path / "run"
    search = f"hydra.searchpath=[file://{tmp_path / 'conf'}]"
    command = ["train", *own(world, tmp_path / "runs", search, "mode=untrained", f"run_dir={run}")]
    assert main([*command, "sampling.samples_per_prompt=4", "mode.note=nothing new"]) == 0, capfd.readouterr().err
    training = json.loads((run / "training.json").read_text())
    assert training["mode"] == "untrained"
    assert training["lam"] == json.loads((run / "solution.json").read_text())["solution"]["lam"]
    assert (run / "adapter" / "note.txt").read_text() == "nothing new for ['judge', 'vowels']"
    assert main([*command, "mode.rounds=2"]) == 2
    assert "mode.rounds" in capfd.readouterr().err
