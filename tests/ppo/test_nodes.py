"""Two nodes with launch/multi_node.yaml: two launches on this machine. Truth: the same three steps of one launch."""

import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from safetensors.torch import load_file

from mapft.utils.paths import shipped
from tests.ppo.test_backends import assert_same, steps

pytest.importorskip("deepspeed", reason="DeepSpeed is not installed (pip install 'mapft[deepspeed]')")
SECONDS = 240


def on_two_nodes(folder: Path, *more: str) -> list[int]:
    """Exit codes of one process of tests.ppo.one_step on each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--config_file", str(shipped("launch") / "multi_node.yaml"), "--num_processes=2", "--mixed_precision=no"]
    options += ["--main_process_ip=127.0.0.1", f"--main_process_port={port}", "-m", "tests.ppo.one_step", str(folder)]
    environment = os.environ | {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    launch, nodes = [sys.executable, "-m", "accelerate.commands.launch"], []
    for rank in range(2):
        with (folder.parent / f"{folder.name}-{rank}.log").open("a") as log:
            words = [*launch, f"--machine_rank={rank}", *options, "checkpoint", *more]
            nodes.append(subprocess.Popen(words, env=environment, stderr=log, start_new_session=True))
    try:
        return [node.wait(SECONDS) for node in nodes]
    finally:
        for node in nodes:
            with suppress(ProcessLookupError):
                os.killpg(node.pid, signal.SIGKILL)


@pytest.mark.slow
def test_two_nodes_take_the_steps_of_two_processes_also_after_a_node_has_died(tmp_path):
    whole = steps(tmp_path / "whole", "zero2", "checkpoint")
    assert 0 not in on_two_nodes(tmp_path / "nodes", "die")
    assert (tmp_path / "nodes" / "checkpoint-2").exists()
    assert not (tmp_path / "nodes" / "adapter").exists()
    assert on_two_nodes(tmp_path / "nodes") == [0, 0], [log.read_text()[-2000:] for log in tmp_path.glob("*.log")]
    assert_same(whole, load_file(tmp_path / "nodes" / "adapter" / "adapter_model.safetensors"))
