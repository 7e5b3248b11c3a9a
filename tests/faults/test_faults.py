"""Full disks, folders that cannot be written, rewards that fail, clocks that jump. Truth: the undisturbed run."""

import ctypes
import re
import resource
import shutil
import socket
import subprocess
import time
from functools import partial
from pathlib import Path

import pytest

from tests.faults.victim import Victim, calls, kept_scores, same, settings, torn

pytestmark = pytest.mark.slow
# The stage, and the bytes that a file may have: too few for its samples, checkpoints, adapter, pictures, merged model.
LIMITS = [
    ("sample", 2000),
    ("score", 2000),
    ("solve", 100),
    ("train", 500, 20_000),
    ("evaluate", 2000),
    ("export", 50_000),
]


def one_sentence(victim: Victim, code: int, *words: str) -> None:
    assert victim.wait() == code, victim.said[-3000:]
    assert victim.last_words.startswith("mapft: "), victim.said[-3000:]
    assert "Traceback" not in victim.said
    for word in words:
        assert word in victim.last_words


def test_a_full_disk(undisturbed, tmp_path):
    """In stage after stage no file may grow beyond some bytes; with room again the same command goes on."""
    world, runs = undisturbed
    output, overrides, log = tmp_path / "out", settings(world, tmp_path / "out"), tmp_path / "calls"
    for stage, *limits in LIMITS:
        for largest in limits:
            before = {path: path.read_bytes() for path in output.rglob("*.parquet")}
            full = Victim(stage, overrides, log, prepare=partial(limit, largest))
            one_sentence(full, 2, "cannot be written", "free space")
            assert torn(output) == [], (stage, largest)
            assert {path: path.read_bytes() for path in before} == before
        room = Victim(stage, overrides, log)
        assert room.wait() == 0, room.said[-3000:]
    same(output / "run", runs["simultaneous"][1])


def limit(largest: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))


def test_a_disk_that_is_full(undisturbed, tmp_path):
    """A file system of 300 kB: the samples fit, the checkpoints do not."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "none", str(disk)], check=False, capture_output=True
    ).returncode:
        pytest.skip("this user may not mount a small file system")
    try:
        world, runs = undisturbed
        overrides = settings(world, disk)
        one_sentence(Victim("run", overrides, tmp_path / "calls"), 2, "cannot be written", "free space")
        assert torn(disk) == []
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        last = Victim("run", overrides, tmp_path / "calls")
        assert last.wait() == 0, last.said[-3000:]
        same(disk / "run", runs["simultaneous"][1])
    finally:
        subprocess.run(["umount", str(disk)], check=False)


def test_a_folder_that_cannot_be_written(undisturbed, tmp_path):
    world, _ = undisturbed
    (tmp_path / "out").mkdir(mode=0o555)
    victim = Victim("run", settings(world, tmp_path / "out"), tmp_path / "calls", prepare=obey_permissions)
    one_sentence(victim, 2, str(tmp_path / "out"), "cannot be written")
    assert list((tmp_path / "out").iterdir()) == []


def obey_permissions() -> None:
    """Root may write anywhere while CAP_DAC_OVERRIDE (bit 1) is among its effective capabilities."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3 of the sets; this process
    sets, libc = (ctypes.c_uint32 * 6)(), ctypes.CDLL(None)
    libc.capget(header, sets)
    sets[0] &= ~0b10
    libc.capset(header, sets)


@pytest.mark.parametrize(("fault", "call"), [("raises", 1), ("hangs", 4), ("raises", 9)])
def test_a_reward_that_fails_at_some_call(undisturbed, tmp_path, fault, call):
    """In the pilot, in training, and in the evaluation; nothing that was kept is asked for again."""
    world, runs = undisturbed
    overrides, log = settings(world, tmp_path / "out"), tmp_path / "calls"
    victim = Victim("run", [*overrides, "+rewards.vowels.timeout=5"], log, fault=f"{fault} {call}")
    said = "ConnectionError: the judge is away" if fault == "raises" else "has not returned within timeout=5 seconds"
    one_sentence(victim, 2, "rewards.vowels", said)
    asked, kept = len(calls(log)), kept_scores(tmp_path / "out")
    assert asked == call
    assert torn(tmp_path / "out") == []
    assert Victim("run", overrides, log).wait() == 0
    assert not kept & set(calls(log)[asked:])
    same(tmp_path / "out/run", runs["simultaneous"][1])


def test_a_reward_server_that_is_killed(undisturbed, tmp_path):
    """In the pilot, in training and in the evaluation; with the server back, the same command goes on."""
    world, runs = undisturbed
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    output, log = tmp_path / "out", tmp_path / "calls"
    served = ["rewards=[]", "+rewards.vowels={kind: function, target: 'tests.faults.victim:logged'}", f"port={port}"]
    remote = f"+rewards.vowels={{kind: remote, url: 'http://127.0.0.1:{port}/score/vowels', retries: 0}}"
    overrides = [remote if each == "+rewards.vowels.kind=function" else each for each in settings(world, output)]
    overrides = [each for each in overrides if "rewards.vowels.target" not in each]  # the columns keep their order
    for call in (1, 12, 26):
        server, run = serving(served, log), Victim("run", overrides, tmp_path / "none")
        while len(calls(log)) < call:
            assert run.process.exitcode is None, run.said[-3000:]
            time.sleep(0.005)
        server.process.kill()
        server.wait()
        one_sentence(run, 2, "rewards.vowels", "returned no scores in 1 attempt")
        assert torn(output) == []
    server, run = serving(served, log), Victim("run", overrides, tmp_path / "none")
    assert run.wait() == 0, run.said[-3000:]
    server.process.kill()
    same(output / "run", runs["simultaneous"][1])


def serving(overrides: list[str], log: Path) -> Victim:
    """`mapft serve-rewards`, once it answers."""
    server = Victim("serve-rewards", overrides, log)
    while "Serving vowels" not in server.said:
        assert server.process.exitcode is None, server.said[-3000:]
        time.sleep(0.05)
    return server


def test_decoding_that_is_killed_goes_on(undisturbed, tmp_path):
    """At three moments; the lines are those of an undisturbed decoding, and whole chunks are not drawn again."""
    world, runs = undisturbed
    output, log = tmp_path / "out", tmp_path / "calls"
    shutil.copytree(runs["simultaneous"][1].parent, output)
    overrides = [*settings(world, output), "decoding={candidates: 64, samples_per_prompt: 64}"]
    before, found = Victim("decode", overrides, log), output / "run"
    assert before.wait() == 0, before.said[-3000:]
    [whole] = found.glob("decoded-*.jsonl")
    lines, asked = whole.read_bytes(), len(calls(log))
    whole.unlink()
    log.unlink()
    kills = 0
    for delay in (0.1, 0.3, 0.5):
        begun = lambda victim: whole.exists() and whole.stat().st_size > 0  # noqa: E731
        kills += Victim("decode", overrides, log).kill_when(begun, delay)
    assert kills >= 1
    last = Victim("decode", overrides, log)
    assert last.wait() == 0, last.said[-3000:]
    assert whole.read_bytes() == lines
    assert len(calls(log)) <= asked + kills, "a kill costs the chunk that was being scored"


def test_a_clock_that_jumps(undisturbed, tmp_path):
    world, runs = undisturbed
    overrides = settings(world, tmp_path / "out")
    victim = Victim("run", overrides, tmp_path / "calls", module="tests.faults.clock")
    assert victim.wait() == 0, victim.said[-3000:]
    assert re.search(r"vowels .*yes|vowels .*no", victim.said)
    same(tmp_path / "out/run", runs["simultaneous"][1])
