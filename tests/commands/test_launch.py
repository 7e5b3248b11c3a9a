"""`mapft launch`. Truth: the command line of accelerate, and a run under DeepSpeed to its closing table."""

import json
import os
import signal
import subprocess
import sys
from subprocess import CalledProcessError

import pytest
import yaml
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from mapft.cli import main
from mapft.commands import launch
from mapft.config.launch import LAUNCHERS
from mapft.utils.errors import UserError
from mapft.utils.paths import shipped
from tests import worlds
from tests.worlds import SMALL, own


@pytest.mark.parametrize(("gpus", "processes", "precision"), [(0, "1", "no"), (4, "4", "bf16")])
def test_processes_and_precision_fit_the_machine(monkeypatch, gpus, processes, precision):
    monkeypatch.setattr(launch, "visible_gpus", lambda: gpus)
    words, environment = launch.command_line(["zero2", "--", "experiment=own", "seed=1"])
    options = dict(zip(words[:6:2], words[1:6:2], strict=True))
    assert options["--config_file"].endswith("launch/zero2.yaml")
    assert (options["--num_processes"], options["--mixed_precision"]) == (processes, precision)
    recorded = ["launch=zero2", f"launch.processes={processes}"]
    assert words[-7:] == ["-m", "mapft", "run", *recorded, "experiment=own", "seed=1"]
    assert ("DS_ACCELERATOR" in environment) == (gpus == 0)


def test_other_options_go_to_accelerate_and_the_command_may_be_any_on_a_run(monkeypatch):
    monkeypatch.setattr(launch, "visible_gpus", lambda: 8)
    options = ["--processes", "16", "--precision", "fp16", "--machine_rank", "1"]
    words, _ = launch.command_line(["multi_node", *options, "--", "train", "seed=1"])
    assert words[words.index("--num_processes") + 1] == "16"
    assert words[words.index("--mixed_precision") + 1] == "fp16"
    assert words[words.index("--machine_rank") + 1] == "1"
    assert words[words.index("mapft") + 1 :] == ["train", "launch=multi_node", "launch.processes=16", "seed=1"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "NAME is missing; use one of cpu, gpu"),
        (["zero4"], "NAME is zero4, which is unknown; use one of cpu, gpu"),
        (["ddp", "--processes"], "--processes has no value"),
        (["ddp", "--processes", "many"], "--processes many is invalid"),
        (["zero2", "seed=1", "palette=hhh_60"], "seed=1 is before --"),
        (["ddp", "--precision", "int1"], "--precision int1 is unknown"),
    ],
)
def test_invalid_words_are_one_sentence(words, message):
    with pytest.raises(UserError, match=message):
        launch.command_line(words)


def test_words_after_the_dashes_belong_to_the_command(monkeypatch):
    started = []
    monkeypatch.setattr(launch, "visible_gpus", lambda: 1)
    monkeypatch.setattr("accelerate.commands.launch.launch_command", started.append)
    assert main(["launch", "cpu", "--debug", "--", "train", "--debug", "seed=1"]) == 0
    assert started[0].training_script_args[-2:] == ["--debug", "seed=1"]


KILLED = "mapft: a process of this run was killed ({}); repeat the command to continue.\n"
MEMORY = "SIGKILL, often for lack of memory"


def failed(*codes: int) -> ChildFailedError:
    return ChildFailedError("mapft", {rank: ProcessFailure(rank, 0, code, "") for rank, code in enumerate(codes)})


@pytest.mark.parametrize(
    ("error", "code", "printed"),
    [
        (failed(2, -signal.SIGTERM), 2, ""),
        (failed(-signal.SIGTERM, -signal.SIGKILL), 1, KILLED.format(MEMORY)),
        (failed(-signal.SIGTERM, -signal.SIGTERM), 1, KILLED.format("SIGTERM")),
        (CalledProcessError(-signal.SIGTERM, "mapft"), 1, KILLED.format("SIGTERM")),
        (CalledProcessError(2, "mapft"), 2, ""),
        (SignalException("", signal.SIGINT), 130, ""),
    ],
)
def test_the_launcher_adds_a_sentence_only_where_a_process_could_not(monkeypatch, capfd, error, code, printed):
    def launch_command(_):
        raise error

    monkeypatch.setattr("accelerate.commands.launch.launch_command", launch_command)
    monkeypatch.setattr(launch, "visible_gpus", lambda: 1)
    assert main(["launch", "gpu"]) == code
    assert capfd.readouterr().err == printed


def test_compare_needs_one_process(monkeypatch, capfd):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["compare"]) == 2
    assert "works in one process" in capfd.readouterr().err


@pytest.mark.parametrize("name", LAUNCHERS)
def test_every_launcher_has_its_files(name):
    assert yaml.safe_load((shipped("launch") / f"{name}.yaml").read_text())["compute_environment"] == "LOCAL_MACHINE"
    assert yaml.safe_load((shipped("conf") / "launch" / f"{name}.yaml").read_text())["name"] == name


@pytest.mark.slow
@pytest.mark.parametrize("name", ["zero2", "zero3"])
def test_the_main_job_under_deepspeed(tmp_path, name):
    """Two CPU processes share one run folder, to the closing table; refinement and checkpoints included."""
    pytest.importorskip("deepspeed", reason="DeepSpeed is not installed (pip install 'mapft[deepspeed]')")
    world = worlds.build(tmp_path)
    overrides = own(world, tmp_path / "runs", *SMALL, "refine.every=2", "refine.tolerance=0", "trainer.save_steps=4")
    command = [sys.executable, "-m", "mapft", "launch", name, "--processes", "2", "--", *overrides]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("Predicted and realized") == 1
    [folder] = (tmp_path / "runs").glob("run-custom-*")
    assert json.loads((folder / "config.json").read_text())["config"]["launch"]["name"] == name
    assert json.loads((folder / "training.json").read_text())["lam"]["vowels"] > 0
    assert json.loads((folder / "evaluation.json").read_text())["policies"]["tuned"]["kl"]["mean"] != 0


# Stand-ins for SLURM: srun starts the task on two nodes, and ends both when one fails.
SLURM = {
    "scontrol": "printf '%s\\n' 127.0.0.1 127.0.0.2",
    "srun": """while [[ $1 == --* ]]; do shift; done
        for node in 0 1; do SLURM_NODEID=$node "$@" & done
        wait -n && wait -n || { kill $(jobs -p); exit 1; }""",
    "mapft": f'exec {sys.executable} -m mapft "$@"',
}


@pytest.mark.slow
def test_the_batch_script_for_slurm_trains_on_all_nodes(tmp_path):
    pytest.importorskip("deepspeed", reason="DeepSpeed is not installed (pip install 'mapft[deepspeed]')")
    for name, script in SLURM.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{script}\n")
        (tmp_path / name).chmod(0o755)
    job = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_NNODES": "2"}
    job |= {
        "SLURM_CPUS_PER_TASK": "1",
        "SLURM_GPUS_ON_NODE": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
    }
    steps = "trainer={total_episodes: 16, per_device_train_batch_size: 4, num_mini_batches: 1, num_ppo_epochs: 1}"
    overrides = own(worlds.build(tmp_path), tmp_path / "runs", steps, f"run_dir={tmp_path / 'run'}")
    command = [shipped("launch") / "slurm.sh", "train", *overrides]
    done = subprocess.run(command, env=os.environ | job, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "run/adapter").exists()
    settings = json.loads((tmp_path / "run/config.json").read_text())["config"]["launch"]
    assert (settings["name"], settings["processes"]) == ("multi_node", 2)
    first, *_ = (tmp_path / "run/logs.jsonl").read_text().splitlines()
    assert json.loads(first)["episodes"] == 2 * 4
