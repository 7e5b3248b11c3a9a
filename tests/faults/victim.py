"""The real command in a process of its own, on a terminal, and what it leaves on disk."""

import atexit
import json
import multiprocessing
import os
import pty
import re
import runpy
import signal
import sys
import time
import warnings
from collections.abc import Callable
from hashlib import blake2b
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Thread

import numpy as np
import pandas as pd
import torch
from safetensors import safe_open

from mapft.ppo.checkpoint import newest_complete
from tests import worlds

FORKSERVER = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload(
    ["tests.faults.victim", "mapft.commands.execute", "mapft.training.fit", "mapft.evaluation.levels"]
)
COMPLETE = {".png": b"IEND\xaeB`\x82", ".svg": b"</svg>\n", ".html": b"</html>"}  # what whole files end with


def logged(prompts: list[str], completions: list[str], **_: object) -> list[float]:
    """worlds.vowels, slowly; a digest of the scores of every call goes to $CALLS. $FAULT: "raises 3" or "hangs 3"."""
    scores = worlds.vowels(prompts, completions)
    time.sleep(len(scores) / 3000)
    fault, _, call = os.environ.get("FAULT", "").partition(" ")
    if fault and len(calls(Path(os.environ["CALLS"]))) == int(call):
        if fault == "raises":
            raise ConnectionError("the judge is away")
        time.sleep(3600)
    with Path(os.environ["CALLS"]).open("a") as file:
        file.write(digest(np.array(scores)) + "\n")
    return scores


def calls(path: Path) -> list[str]:
    """Digests of the scores that `logged` has given so far."""
    return path.read_text().split() if path.exists() else []


def digest(scores_N: np.ndarray) -> str:
    return blake2b(scores_N.tobytes(), digest_size=8).hexdigest()


def settings(world: dict[str, Path], output: Path) -> list[str]:
    """Two values, six PPO iterations with a checkpoint after each, a refinement after every second."""
    return worlds.own(
        world,
        output,
        "rewards.vowels.target=tests.faults.victim:logged",
        "+palette.quantiles.judge=0.55",
        f"run_dir={output / 'run'}",
        "sampling={batch_size: 16, samples_per_prompt: 64}",
        "trainer={total_episodes: 192, per_device_train_batch_size: 16, num_mini_batches: 2, num_ppo_epochs: 1}",
        "trainer.save_steps=1",
        "refine.every=2",
        "evaluation={samples_per_prompt: 32, bootstrap: 200}",
    )


def command(
    terminal: Connection, arguments: list[str], environment: dict[str, str], prepare: Callable[[], object] | None
) -> None:
    """`python -m ARGUMENTS` on a terminal, after prepare()."""
    os.dup2(terminal.fileno(), 1)
    os.dup2(terminal.fileno(), 2)
    terminal.close()
    sys.stdout.reconfigure(line_buffering=True)
    torch.set_num_threads(1)
    os.environ.update(environment)
    if prepare is not None:
        prepare()
    sys.argv = arguments
    try:
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()  # multiprocessing ends a process without them


class Victim:
    """`mapft COMMAND` in a process and on a terminal of its own; `said` is what it has written there.

    The process is a fork of one that has imported the libraries: importing them takes half of such a command's time.
    """

    def __init__(
        self,
        name: str,
        overrides: list[str],
        calls: Path,
        *,
        fault: str = "",
        module: str = "mapft",
        prepare: Callable[[], object] | None = None,
    ):
        terminal, slave = pty.openpty()
        own = Connection(slave)  # which multiprocessing passes to the new process
        arguments, environment = [module, name, *overrides], {"CALLS": str(calls), "FAULT": fault}
        self.process = FORKSERVER.Process(target=command, args=(own, arguments, environment, prepare), daemon=True)
        self.process.start()
        own.close()
        self.said = ""
        self.reader = Thread(target=self._read, args=(terminal,), daemon=True)
        self.reader.start()

    def _read(self, terminal: int) -> None:
        try:
            while piece := os.read(terminal, 2**16):
                self.said += piece.decode("utf-8", "replace")
        except OSError:  # the other end is closed
            pass
        finally:
            os.close(terminal)

    def wait(self) -> int:
        """The exit code."""
        self.process.join()
        self.reader.join()
        return self.process.exitcode

    @property
    def last_words(self) -> str:
        """The last line on the terminal, without the codes that move its cursor."""
        return re.sub(r"\x1b\[[?\d;]*[a-zA-Z]", "", self.said).strip().splitlines()[-1]

    def kill_when(self, ready: Callable[["Victim"], bool], delay: float) -> bool:
        """SIGKILL `delay` seconds after `ready`; False if the command had ended by itself."""
        while self.process.exitcode is None and not ready(self):
            time.sleep(0.005)
        time.sleep(delay)
        if self.process.exitcode is None:
            self.process.kill()
        code = self.wait()
        assert code in (0, -signal.SIGKILL), self.said[-3000:]
        return code != 0


def same(one: Path, two: Path) -> None:
    """Two run folders have the same samples, scores, adapter and result."""
    for name in ("adapter/adapter_model.safetensors", "samples.parquet", "scores.parquet"):
        assert (one / name).read_bytes() == (two / name).read_bytes(), name
    first, second = (json.loads((run / "evaluation.json").read_text()) for run in (one, two))
    assert (first["values"], first["lam"]) == (second["values"], second["lam"])


def files(output: Path) -> set[Path]:
    """What has been written so far, without locks, what is being written, and Hydra's note of a sweep."""
    found = set()
    for folder, folders, names in os.walk(output):  # which ignores a folder that vanishes meanwhile
        folders[:] = [name for name in folders if not name.startswith(".")]
        found |= {Path(folder, name) for name in names if not name.startswith(".") and name != "multirun.yaml"}
    return found


def torn(output: Path) -> list[str]:
    """Files that anyone would take for whole and that are not. Names with a dot in front are not to be taken so."""
    found = []
    for path in output.rglob("*"):
        if path.is_dir() or any(part.startswith(".") for part in path.relative_to(output).parts):
            continue
        if "checkpoints" in path.parts:  # a checkpoint is whole when its last file is there
            with warnings.catch_warnings(category=UserWarning, action="ignore"):  # that a newer one is incomplete
                whole = newest_complete(next(p for p in path.parents if p.name == "checkpoints"))
            if whole is None or Path(whole) not in path.parents:
                continue
        try:
            _read_whole(path)
        except Exception as error:
            found.append(f"{path}: {type(error).__name__} {error}")
    return found


def _read_whole(path: Path) -> None:
    if path.suffix == ".json":
        json.loads(path.read_text())
    elif path.suffix == ".jsonl":  # a line that is being written is mended when the run goes on
        for line in path.read_text().splitlines()[:-1]:
            json.loads(line)
    elif path.suffix == ".parquet":
        pd.read_parquet(path)
    elif path.suffix == ".npy":
        np.load(path, allow_pickle=False)
    elif path.suffix == ".safetensors":
        with safe_open(path, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118
                tensors.get_tensor(name)
    elif path.suffix in COMPLETE:
        assert path.read_bytes().rstrip(b"\n").endswith(COMPLETE[path.suffix].rstrip(b"\n"))


def kept_scores(output: Path) -> set[str]:
    """Digests of every array of scores that is on disk."""
    paths = [*output.glob("cache/score-vowels-*/*.npy"), *output.glob("run/visits/*-vowels/scores/*.npy")]
    arrays = [np.load(path, allow_pickle=False) for path in paths]
    return {digest(part) for scores in arrays for part in (scores, *np.split(scores, [1024]))}
