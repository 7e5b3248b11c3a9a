"""A command on a run: its stages, then what the command adds."""

import dataclasses
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from mapft.commands import RunCommand
from mapft.config import Config
from mapft.pipeline import run_stages
from mapft.pipeline.artifacts import read_evaluation
from mapft.pipeline.run import Run
from mapft.rewards import usage
from mapft.utils.errors import UserError

UNTRUSTED = {
    "trust_remote_code": "Python code that comes with {}",
    "allow_pickle": "code in the pickled weights of {}",
}


def execute(config: Config, command: RunCommand, command_line: str, as_json: bool = False) -> float | None:
    """Run the command; returns, after an evaluation, lam.(realized levels) - KL, which a sweep of PPO maximises.

    command_line: as the user gave it. as_json: print nothing but JSON.
    """
    _quiet_libraries()
    if command.one_process and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("This command works in one process; start it without accelerate or `mapft launch`.")
    run = Run(config, command_line, quiet=as_json)
    with run.lock(), _usage_printed(run):
        run.console.print(f"Run folder: {run.folder.path}", soft_wrap=True)
        warn_untrusted_code(run)
        if config.model.adapter:
            base = f"The base policy is {config.model.path} with the adapter {config.model.adapter}."
            run.console.print(base, soft_wrap=True)
        if command.check:
            load(command.check)(run)
        run_stages(run, command.last)
        if not run.is_main:
            return None
        if function := command.json_function if as_json else command.function:
            written = load(function)(run)
            if written is not None:
                run.console.print(str(written), soft_wrap=True)
        elif command.last == "evaluate":
            return read_evaluation(run.folder).objective()
        else:
            written = {"sample": run.folder.samples, "score": run.folder.scores, "train": run.folder.adapter}
            run.console.print(str(written[command.last]), soft_wrap=True)
    return None


def load(function: str) -> Any:
    """The object that "module:name" names."""
    module, _, attribute = function.partition(":")
    return getattr(import_module(module), attribute)


def warn_untrusted_code(run: Run) -> None:
    """Print which folders or Hub ids may run code of their own on this machine."""
    groups = {"model": dataclasses.asdict(run.config.model)}
    groups |= {f"rewards.{name}": dict(settings) for name, settings in run.config.rewards.items()}
    for group, settings in groups.items():
        for name, what in UNTRUSTED.items():
            if settings.get(name):
                warning = f"{group}.{name}=true: {what.format(settings.get('path'))} can run on this machine."
                run.console.print(warning, soft_wrap=True)


@contextmanager
def _usage_printed(run: Run) -> Iterator[None]:
    """Afterwards, also after an error, print what requests to judges on other machines have used."""
    try:
        yield
    finally:
        for sentence in usage.take_sentences():
            run.console.print(sentence, soft_wrap=True)


def _quiet_libraries() -> None:
    """No progress bars for loading weights, and no warnings of libraries that a user cannot act on."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    loading = logging.getLogger("transformers.modeling_utils")  # utils/weights.py reports the same in one sentence
    loading.addFilter(lambda record: "LOAD REPORT" not in record.getMessage())
    for name in ("bitsandbytes.backends.cpu.ops", "DeepSpeed"):  # about kernels and accelerators that a CPU lacks
        logging.getLogger(name).addFilter(lambda record: record.levelno >= logging.ERROR)
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing", FutureWarning)  # of transformers, by PEFT and TRL
    warnings.filterwarnings("ignore", "fan_in_fan_out is set to False", UserWarning)  # PEFT corrects it by itself
