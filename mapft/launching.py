"""`mapft launch NAME -- overrides...`: the job under `accelerate launch` with one of the files in launch/."""

import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from mapft.errors import UserError
from mapft.paths import shipped

LAUNCHERS = ("cpu", "gpu", "ddp", "fsdp2", "zero2", "zero3", "multi_node")
PRECISIONS = ("no", "fp16", "bf16")
_CLAIMED: list[Any] = []  # the lock of this process's GPU


def launch(words: Sequence[str]) -> int:
    """Become `accelerate launch`, with the processes and precision that fit this machine where they are not given."""
    os.execve(sys.executable, *command(words))


def command(words: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """(arguments, environment). accelerate's own options stand after the name, before --.

    On several machines the file, or --processes, says how many processes there are on all of them together.
    """
    ours, overrides = _split(words)
    if not ours or ours[0] not in LAUNCHERS:
        named = ours[0] if ours else "nothing"
        raise UserError(
            f"mapft launch was given {named}; name one of {', '.join(LAUNCHERS)}, then -- and the overrides."
        )
    name, options = ours[0], dict(zip(ours[1::2], ours[2::2], strict=False))
    if len(ours) % 2 == 0:
        raise UserError(f"{ours[-1]} has no value; options come in pairs, as --processes 4.")
    found = gpus()
    fits = None if name == "multi_node" else str(1 if name in ("cpu", "gpu") else max(found, 1))
    processes = options.pop("--processes", fits)
    precision = options.pop("--precision", "bf16" if found and name != "cpu" else "no")
    stray = next((word for word in options if not word.startswith("--")), None)
    if stray:
        raise UserError(f"{stray} stands before --, where options are; write mapft launch {name} -- {stray} ...")
    if processes is not None and (not processes.isdecimal() or int(processes) < 1):
        raise UserError(f"--processes {processes} is no number of processes; give 1 or more.")
    if precision not in PRECISIONS:
        raise UserError(f"--precision {precision} is unknown; use one of {', '.join(PRECISIONS)}.")
    file = str(shipped("launch").absolute() / f"{name}.yaml")
    arguments = ["-m", "accelerate.commands.launch", "--config_file", file]
    arguments += ["--mixed_precision", precision, *(["--num_processes", processes] if processes else [])]
    arguments += [word for pair in options.items() for word in pair]
    environment = dict(os.environ) | ({} if found else {"DS_ACCELERATOR": "cpu"})
    return [sys.executable, *arguments, "-m", "mapft.train", *overrides], environment


def _split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    place = list(words).index("--") if "--" in words else len(words)
    return list(words[:place]), list(words[place + 1 :])


def claim_gpu(launcher: str) -> None:
    """Under the joblib launcher: from now on this process sees one GPU, which no other process of the sweep has.

    Held by a lock until the process ends, and so through all jobs that it is given.
    """
    if not launcher.endswith("JoblibLauncher") or _CLAIMED or not gpus():
        return
    from filelock import FileLock, Timeout

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    for gpu in visible.split(",") if visible else map(str, range(gpus())):
        lock = FileLock(Path(tempfile.gettempdir()) / f"mapft-{os.getuid()}-gpu-{gpu}.lock")
        with suppress(Timeout):
            lock.acquire(timeout=0)
            _CLAIMED.append(lock)
            os.environ["CUDA_VISIBLE_DEVICES"] = gpu
            return
    raise UserError("Another sweep holds every GPU; wait for it, or give fewer jobs with hydra.launcher.n_jobs=1.")


def gpus() -> int:
    """How many this process sees; asking makes no use of them."""
    import torch

    return torch.cuda.device_count()
