"""`mapft launch`. Truth: the words that accelerate is given, and a run under DeepSpeed to its closing table."""

import json
import subprocess
import sys

import pytest
import yaml

from mapft import launching
from mapft.cli import main
from mapft.errors import UserError
from mapft.paths import shipped
from tests import worlds
from tests.worlds import SMALL, own


@pytest.mark.parametrize(("gpus", "processes", "precision"), [(0, "1", "no"), (4, "4", "bf16")])
def test_processes_and_precision_fit_the_machine(monkeypatch, gpus, processes, precision):
    monkeypatch.setattr(launching, "gpus", lambda: gpus)
    words, environment = launching.command(["zero2", "--", "experiment=own", "seed=1"])
    given = dict(zip(words[3:9:2], words[4:9:2], strict=True))
    assert given["--config_file"].endswith("launch/zero2.yaml")
    assert (given["--num_processes"], given["--mixed_precision"]) == (processes, precision)
    assert words[-4:] == ["-m", "mapft.train", "experiment=own", "seed=1"]
    assert ("DS_ACCELERATOR" in environment) == (gpus == 0)


def test_what_is_given_wins_and_the_rest_is_accelerates(monkeypatch):
    monkeypatch.setattr(launching, "gpus", lambda: 8)
    words, _ = launching.command(
        ["multi_node", "--processes", "16", "--precision", "fp16", "--machine_rank", "1", "--"]
    )
    assert words[words.index("--num_processes") + 1] == "16"
    assert words[words.index("--mixed_precision") + 1] == "fp16"
    assert words[words.index("--machine_rank") + 1] == "1"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "was given nothing"),
        (["zero4"], "was given zero4; name one of cpu, gpu"),
        (["ddp", "--processes"], "--processes has no value"),
        (["ddp", "--processes", "many"], "--processes many is no number"),
        (["zero2", "seed=1", "palette=hhh_60"], "seed=1 stands before --"),
        (["ddp", "--precision", "int1"], "--precision int1 is unknown"),
    ],
)
def test_wrong_words_are_one_sentence(words, said):
    with pytest.raises(UserError, match=said):
        launching.command(words)


@pytest.mark.parametrize("name", launching.LAUNCHERS)
def test_every_launcher_has_its_file(name):
    assert yaml.safe_load((shipped("launch") / f"{name}.yaml").read_text())["compute_environment"] == "LOCAL_MACHINE"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["zero2", "zero3"])
def test_the_main_job_under_deepspeed(tmp_path, name):
    """Two CPU processes share one run folder, to the closing table; refinement and checkpoints included."""
    pytest.importorskip("deepspeed", reason="DeepSpeed is not installed (pip install 'mapft[deepspeed]')")
    world = worlds.build(tmp_path)
    overrides = own(world, tmp_path / "runs", *SMALL, "refine.every=2", "refine.tolerance=0", "trainer.save_steps=4")
    command = [sys.executable, "-m", "mapft.cli", "launch", name, "--processes", "2", "--", *overrides]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("Promised and realized") == 1
    [folder] = (tmp_path / "runs").glob("run-custom-*")
    assert json.loads((folder / "training.json").read_text())["lam"]["vowels"] > 0
    assert json.loads((folder / "evaluation.json").read_text())["kl"]["mean"] != 0


def test_launch_says_what_is_wrong(capfd):
    assert main(["launch", "zero9"]) == 2
    assert "name one of cpu, gpu, ddp" in capfd.readouterr().err
