"""`mapft launch` on two nodes, one of which is killed. Truth: the same training in two processes of one node.

The nodes are network namespaces joined by a veth pair where this user may create them; else both are on the loopback.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests import worlds

pytest.importorskip("deepspeed", reason="DeepSpeed is not installed (pip install 'mapft[deepspeed]')")
SECONDS = 240
ENVIRONMENT = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
STEPS = [  # twelve, with a checkpoint after each
    "trainer={total_episodes: 96, per_device_train_batch_size: 4, num_mini_batches: 1, num_ppo_epochs: 1}",
    "trainer.save_steps=1",
]
CASES = {"zero2": (["multi_node"], 1), "ddp": (["ddp", "--num_machines", "2"], 0)}  # on two nodes; the one that dies


@dataclass
class Network:
    """The first node's address, and for each node the words that run a command there."""

    address: str
    enter: list[list[str]]


@pytest.fixture
def network() -> Iterator[Network]:
    names = [f"mapft-{os.getpid()}-{rank}" for rank in range(2)]
    commands = [f"netns add {name}" for name in names]
    commands += [f"link add veth netns {names[0]} type veth peer name veth netns {names[1]}"]
    for rank, name in enumerate(names):
        commands += [f"-n {name} address add 10.77.0.{rank + 1}/24 dev veth"]
        commands += [f"-n {name} link set {interface} up" for interface in ("veth", "lo")]
    try:
        if all(ip(command) for command in commands):
            gloo = "GLOO_SOCKET_IFNAME=veth"  # its default is the interface of the host name, often the loopback
            yield Network("10.77.0.1", [["ip", "netns", "exec", name, "env", gloo] for name in names])
        else:
            yield Network("127.0.0.1", [[], []])
    finally:
        for name in names:
            ip(f"netns delete {name}")


def ip(command: str) -> bool:
    """Whether `ip COMMAND` exists and succeeds."""
    words = ["ip", *command.split()]
    return bool(shutil.which("ip")) and subprocess.run(words, capture_output=True, check=False).returncode == 0


def mapft(launch: list[str], overrides: list[str]) -> list[str]:
    return [sys.executable, "-m", "mapft", "launch", *launch, "--processes", "2", "--", "train", *overrides]


@contextmanager
def both(network: Network, launch: list[str], overrides: list[str], logs: list[Path]) -> Iterator[list[psutil.Popen]]:
    """The same command on each node, with what it prints in its log."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    nodes = []
    try:
        for rank, (enter, path) in enumerate(zip(network.enter, logs, strict=True)):
            options = ["--machine_rank", str(rank), "--main_process_ip", network.address, "--main_process_port", port]
            command = [*enter, *mapft([*launch, *options], overrides)]
            with path.open("w") as log:
                nodes.append(psutil.Popen(command, env=ENVIRONMENT, stdout=log, stderr=log))
        yield nodes
    finally:
        for node in nodes:
            kill(node)


def kill(node: psutil.Popen) -> None:
    """The launcher, and its process of the run."""
    if node.poll() is None:
        for process in [*node.children(recursive=True), node]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        node.wait()


@pytest.mark.slow
@pytest.mark.parametrize("backend", CASES)
def test_two_nodes_train_as_one_also_after_a_node_has_died(tmp_path, network, backend):
    launch, dead = CASES[backend]
    whole, run, logs = tmp_path / "whole", tmp_path / "run", [tmp_path / "0.log", tmp_path / "1.log"]
    metrics = run / "logs.jsonl"
    overrides = worlds.own(worlds.build(tmp_path), tmp_path / "runs", *STEPS)
    subprocess.run(mapft([backend], [*overrides, f"run_dir={whole}"]), env=ENVIRONMENT, check=True, timeout=SECONDS)
    overrides += [f"run_dir={run}"]

    with both(network, launch, overrides, logs) as nodes:
        end = time.monotonic() + SECONDS
        while not metrics.exists() or metrics.read_text().count("\n") < 3:
            assert time.monotonic() < end, logs[0].read_text()[-3000:]
            assert [node.poll() for node in nodes] == [None, None], logs[0].read_text()[-3000:]
            time.sleep(0.01)
        kill(nodes[dead])
        assert nodes[1 - dead].wait(SECONDS) == 1
    printed = logs[1 - dead].read_text()
    assert printed.splitlines()[-1].startswith("mapft: another process of this run has ended"), printed[-3000:]
    assert "Traceback" not in printed
    assert not (run / "adapter").exists()
    first_step, _, _ = metrics.read_text().partition("\n")

    with both(network, launch, overrides, logs) as nodes:
        assert [node.wait(SECONDS) for node in nodes] == [0, 0], logs[0].read_text()[-3000:]
    assert metrics.read_text().startswith(first_step)  # with its times, as it is not repeated
    tuned, expected = ((folder / "adapter/adapter_model.safetensors").read_bytes() for folder in (run, whole))
    assert tuned == expected
