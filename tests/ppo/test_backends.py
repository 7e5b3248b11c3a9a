"""DDP and DeepSpeed on two CPU processes (gloo). Truth: the same step, and the same three, in one process."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mapft.utils.paths import shipped

pytest.importorskip("deepspeed", reason="DeepSpeed is not installed (pip install 'mapft[deepspeed]')")
BACKENDS = ("ddp", "zero2", "zero3")


def steps(folder: Path, backend: str | None, *more: str) -> dict[str, torch.Tensor]:
    """The adapter after tests.ppo.one_step in one process, or two under a backend of launch/."""
    launch = ["accelerate.commands.launch", "--config_file", str(shipped("launch") / f"{backend}.yaml")]
    launch += ["--num_processes=2", "--mixed_precision=no", "-m"]
    command = [sys.executable, "-m", *(launch if backend else []), "tests.ppo.one_step", str(folder), *more]
    environment = os.environ | {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return load_file(folder / "adapter" / "adapter_model.safetensors")


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    assert max(tensor.abs().max() for name, tensor in first.items() if "lora_B" in name) > 0.1
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, atol=1e-6, rtol=0)


def resumed(folder: Path, begun: Path, backend: str | None) -> dict[str, torch.Tensor]:
    """The third step, from another run's checkpoint after two."""
    shutil.copytree(begun / "checkpoint-2", folder / "checkpoint-2")
    return steps(folder, backend, "checkpoint")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return steps(tmp_path_factory.mktemp("alone"), None)


@pytest.fixture(scope="module")
def begun_alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("begun")
    return folder, steps(folder, None, "checkpoint")


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_two_processes_take_the_step_of_one(tmp_path, alone, backend):
    """Each has four of the eight prompts."""
    assert_same(alone, steps(tmp_path, backend))


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_checkpoint_goes_on_under_another_number_of_processes(tmp_path, begun_alone, backend):
    """Saved under two and read under one, and the reverse: moments, schedule and critic are all there."""
    folder, whole = begun_alone
    assert_same(whole, resumed(tmp_path / "two", folder, backend))
    begun = steps(tmp_path / "begun", backend, "checkpoint")
    assert_same(begun, resumed(tmp_path / "one", tmp_path / "begun", None))
