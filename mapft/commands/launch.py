"""A command under `accelerate launch`, with one of the files in launch/.

mapft launch NAME [--processes N] [--precision no|fp16|bf16] [options of accelerate] -- [COMMAND] [name=value ...]
"""

import argparse
import logging
import os
import signal
import sys
from collections.abc import Sequence
from subprocess import CalledProcessError

from mapft.commands import RUN_COMMANDS
from mapft.config.launch import LAUNCHERS
from mapft.utils.errors import UserError
from mapft.utils.gpus import visible_gpus
from mapft.utils.paths import shipped

PRECISIONS = ("no", "fp16", "bf16")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Everything after the name is parsed by `command_line`."""
    parser.add_argument("words", nargs=argparse.REMAINDER, metavar="NAME ...", help=f"NAME: {', '.join(LAUNCHERS)}")


def main(arguments: argparse.Namespace) -> int:
    """Do what `accelerate launch` does, but without its traceback where a process of the run fails."""
    words, environment = command_line(arguments.words)
    os.environ |= environment
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.getLogger("torch.distributed.elastic.multiprocessing.api").setLevel(logging.CRITICAL)  # reported below
    try:
        launch_command(launch_command_parser().parse_args(words))
    except CalledProcessError as error:
        return report_failure([error.returncode])
    except ChildFailedError as error:
        return report_failure([failure.exitcode for failure in error.failures.values()])
    except SignalException as error:
        return 128 + error.sigval
    return 0


def report_failure(codes: Sequence[int]) -> int:
    """Exit code of the launcher, given those of the processes that failed here.

    A process that fails prints why, unless a signal killed it (code < 0), which is printed here. Where others failed, a
    SIGTERM is the launcher's own, to the processes that were left.
    """
    first, *_ = [code for code in codes if code != -signal.SIGTERM] or codes
    if first < 0:
        name = signal.Signals(-first).name
        cause = f"{name}, often for lack of memory" if first == -signal.SIGKILL else name
        print(f"mapft: a process of this run was killed ({cause}); repeat the command to continue.", file=sys.stderr)
    return max(1, *codes)


def command_line(words: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """(arguments, variables) for `accelerate launch`; processes and precision fit this machine where not given.

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
    accelerate = ["--config_file", file, "--mixed_precision", precision]
    accelerate += ["--num_processes", processes] if processes else []
    accelerate += [word for pair in options.items() for word in pair]
    return [*accelerate, "-m", "mapft", command, *recorded, *overrides], {} if gpus else {"DS_ACCELERATOR": "cpu"}
