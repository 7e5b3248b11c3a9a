"""`mapft launch NAME -- overrides...`: the job under `accelerate launch` with one of the files in launch/."""

import os
import sys
from collections.abc import Sequence

from mapft.errors import UserError
from mapft.paths import shipped

LAUNCHERS = ("cpu", "gpu", "ddp", "fsdp2", "zero2", "zero3", "multi_node")
PRECISIONS = ("no", "fp16", "bf16")


def launch(words: Sequence[str]) -> int:
    """Become `accelerate launch`, with the processes and precision that fit this machine where they are not given."""
    os.execve(sys.executable, *command(words))


def command(words: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """(arguments, environment). Several machines: accelerate's own options stand after the name, before --."""
    ours, overrides = _split(words)
    if not ours or ours[0] not in LAUNCHERS:
        named = ours[0] if ours else "nothing"
        raise UserError(
            f"mapft launch was given {named}; name one of {', '.join(LAUNCHERS)}, then -- and the overrides."
        )
    name, options = ours[0], dict(zip(ours[1::2], ours[2::2], strict=False))
    if len(ours) % 2 == 0:
        raise UserError(f"{ours[-1]} has no value; options come in pairs, as --processes 4.")
    gpus = _gpus()
    processes = options.pop("--processes", str(1 if name in ("cpu", "gpu") else max(gpus, 1)))
    precision = options.pop("--precision", "bf16" if gpus and name != "cpu" else "no")
    if not processes.isdigit() or int(processes) < 1:
        raise UserError(f"--processes {processes} is no number of processes; give 1 or more.")
    if precision not in PRECISIONS:
        raise UserError(f"--precision {precision} is unknown; use one of {', '.join(PRECISIONS)}.")
    file = str(shipped("launch").absolute() / f"{name}.yaml")
    arguments = ["-m", "accelerate.commands.launch", "--config_file", file]
    arguments += ["--num_processes", processes, "--mixed_precision", precision]
    arguments += [word for pair in options.items() for word in pair]
    environment = dict(os.environ) | ({} if gpus else {"DS_ACCELERATOR": "cpu"})
    return [sys.executable, *arguments, "-m", "mapft.train", *overrides], environment


def _split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    place = list(words).index("--") if "--" in words else len(words)
    return list(words[:place]), list(words[place + 1 :])


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()
