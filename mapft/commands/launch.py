"""A command under `accelerate launch`, with one of the files in launch/.

mapft launch NAME [--processes N] [--precision no|fp16|bf16] [options of accelerate] -- [COMMAND] [name=value ...]
"""

import argparse
import os
import sys
from collections.abc import Sequence

from mapft.commands import RUN_COMMANDS
from mapft.config.launch import LAUNCHERS
from mapft.utils.errors import UserError
from mapft.utils.gpus import visible_gpus
from mapft.utils.paths import shipped

PRECISIONS = ("no", "fp16", "bf16")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Everything after the name is parsed by `command_line`."""
    parser.add_argument("words", nargs=argparse.REMAINDER, metavar="NAME ...", help=f"NAME: {', '.join(LAUNCHERS)}")


def main(arguments: argparse.Namespace) -> None:
    """Replace this process by `accelerate launch`."""
    words, environment = command_line(arguments.words)
    os.execve(sys.executable, words, environment)


def command_line(words: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """(arguments, environment) of `accelerate launch`; processes and precision fit this machine where not given.

    On several machines the file, or --processes, says how many processes there are on all of them together. The
    command's settings get launch=NAME, so that the run records how it was launched.
    """
    split = list(words).index("--") if "--" in words else len(words)
    ours, rest = list(words[:split]), list(words[split + 1 :])
    if not ours or ours[0] not in LAUNCHERS:
        given = f"{ours[0]}, which is unknown" if ours else "missing"
        raise UserError(f"NAME is {given}; use one of {', '.join(LAUNCHERS)}, then -- and the settings.")
    name, options = ours[0], dict(zip(ours[1::2], ours[2::2], strict=False))
    if len(ours) % 2 == 0:
        raise UserError(f"{ours[-1]} has no value; options come in pairs, for example --processes 4.")
    if stray := next((word for word in options if not word.startswith("--")), None):
        raise UserError(f"{stray} is before --, where options are; write mapft launch {name} -- {stray}.")
    gpus = visible_gpus()
    default = None if name == "multi_node" else str(1 if name in ("cpu", "gpu") else max(gpus, 1))
    processes = options.pop("--processes", default)
    precision = options.pop("--precision", "bf16" if gpus and name != "cpu" else "no")
    if processes is not None and not (processes.isascii() and processes.isdecimal() and int(processes) >= 1):
        raise UserError(f"--processes {processes} is invalid; give a number of at least 1.")
    if precision not in PRECISIONS:
        raise UserError(f"--precision {precision} is unknown; use one of {', '.join(PRECISIONS)}.")
    command, overrides = (rest[0], rest[1:]) if rest and rest[0] in RUN_COMMANDS else ("run", rest)
    recorded = [f"launch={name}", *([f"launch.processes={processes}"] if processes else [])]
    file = str(shipped("launch").absolute() / f"{name}.yaml")
    accelerate = ["-m", "accelerate.commands.launch", "--config_file", file, "--mixed_precision", precision]
    accelerate += ["--num_processes", processes] if processes else []
    accelerate += [word for pair in options.items() for word in pair]
    environment = dict(os.environ) | ({} if gpus else {"DS_ACCELERATOR": "cpu"})
    return [sys.executable, *accelerate, "-m", "mapft", command, *recorded, *overrides], environment
