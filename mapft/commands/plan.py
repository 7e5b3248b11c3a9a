"""`mapft plan`: the memory of a device in parts, the batches that fit into it, and the smallest change if none do."""

import dataclasses
from pathlib import Path
from typing import Any

import pandas as pd

from mapft.config import Config, Quantization, Residency
from mapft.config.run_folder import RunFolder
from mapft.pipeline.artifacts import read_batches, read_run_record
from mapft.planning import GB, SHARDED, USABLE, Memory, Phases, capacity, estimate
from mapft.rewards import parse
from mapft.sampling.models import load_tokenizer
from mapft.sampling.prompts import longest_prompt
from mapft.sampling.split import load_split
from mapft.sampling.tokens import render
from mapft.training.modes.simultaneous import Simultaneous
from mapft.utils.errors import UserError
from mapft.utils.files import read_json_lines
from mapft.utils.gpus import visible_gpus

SPEED_GROUPS = ("model", "adapter", "trainer", "sampling", "engine")  # settings that decide the speed of an iteration
SPEED_METRICS = {"timing/rollout", "timing/update", "completions/mean_length"}


def plan(config: Config) -> str:
    """A table in 10^9 bytes, whether it fits, what would make it fit, and the speed of an earlier run.

    Raises UserError where the memory of a GPU is unknown.
    """
    if config.launch.name == "cpu" and visible_gpus():  # a run uses the GPU
        config = _with(config, {"launch.name": "gpu"})
    launch, free = config.launch, capacity(config)
    notes: list[str] = []
    training, held_out = load_split(config, parse(config.rewards), notes.append)
    prompt_tokens = longest_prompt(render(training + held_out, load_tokenizer(config.model)))
    phases = Phases(config, prompt_tokens)
    memory = estimate(config, phases, free)
    share = memory.peak / free
    device = "host" if launch.name == "cpu" else f"each of {launch.processes} GPU{'s' * (launch.processes > 1)}"
    fits = "it fits" if share <= USABLE else "it does not fit"
    lines = [*notes, _table(memory), ""]
    lines.append(f"{memory.peak / GB:.2f} of {free / GB:.1f} GB ({share:.0%}) on {device}: {fits}.")
    lines.append(f"The longest prompt has {prompt_tokens} tokens. {memory.batches.sentence(config)}")
    if share > USABLE:
        lines.append(_remedy(config, phases, free, memory.peak))
    lines.append(_speed(config))
    return "\n".join(lines)


def _table(memory: Memory) -> str:
    largest = max(memory.phases, key=lambda name: memory.phases[name])
    rows = [(name, size, "persistent") for name, size in memory.persistent.items()]
    rows += [(name, size, "phase, the largest" if name == largest else "phase") for name, size in memory.phases.items()]
    return "\n".join(f"{name:<14}{size / GB:>9.3f} GB  {kind}" for name, size, kind in rows)


# ---------------------------------------------------------------------- what would make it fit


Change = dict[str, Any]  # value by name of a setting


def changes(config: Config) -> list[Change]:
    """Changes that reduce memory; those that leave the result as it is come first."""
    trainer = config.trainer
    candidates: list[Change] = []
    if isinstance(config.mode, Simultaneous):
        on_cpu = config.launch.name == "cpu"
        smaller = [Residency.one_at_a_time] if on_cpu else [Residency.offload, Residency.one_at_a_time]
        candidates += [{"mode.reward_models": choice} for choice in smaller if choice is not config.mode.residency]
    for name in ("micro_batch_size", "gradient_checkpointing", "local_rollout_forward_batch_size"):
        if getattr(trainer, name) is not None:
            candidates.append({f"trainer.{name}": None})
    if config.sampling.micro_batch_size:
        candidates.append({"sampling.micro_batch_size": None})
    plain = config.model.quantization is Quantization.none and config.launch.name not in SHARDED
    if config.launch.name in ("ddp", "zero2", "multi_node") and config.launch.processes > 1 and plain:
        candidates.append({"launch.name": "zero3"})
    divides = not trainer.replay_batch or trainer.rows_per_step % trainer.num_generations == 0
    if trainer.num_mini_batches > 1 and trainer.rows_per_step > 1 and divides:
        candidates.append({"trainer.num_mini_batches": 1})
    if plain:
        candidates.append({"model.quantization": Quantization.nf4})
    return candidates


def _remedy(config: Config, phases: Phases, free: float, peak: float) -> str:
    """The first change that is enough by itself; else those that are enough together, in their order.

    peak: bytes without any change.
    """
    for change in changes(config):
        if estimate(_with(config, change), phases, free).peak <= USABLE * free:
            return f"Smallest change after which it fits: {_overrides(change)}."
    combined: Change = {}
    tried: list[Change] = []
    while change := next((candidate for candidate in changes(config) if candidate not in tried), {}):
        tried.append(change)
        smaller = estimate(_with(config, change), phases, free).peak
        if smaller < peak:
            peak, config = smaller, _with(config, change)
            combined |= change
        if peak <= USABLE * free:
            return f"It fits with these changes together: {_overrides(combined)}."
    smallest = f"; with {_overrides(combined)} it needs {peak / GB:.2f} GB" if combined else ""
    return f"No change of settings that mapft plan tries makes it fit{smallest}."


def _overrides(change: Change) -> str:
    shown = {name: "null" if value is None else str(value).lower() for name, value in change.items()}
    return " ".join(f"{name.removesuffix('.name')}={value}" for name, value in shown.items())


def _with(config: Config, change: Change) -> Config:
    for name, value in change.items():
        group, setting = name.split(".")
        config = dataclasses.replace(config, **{group: dataclasses.replace(getattr(config, group), **{setting: value})})
    return config


# ---------------------------------------------------------------------- speed


def _speed(config: Config) -> str:
    """Seconds per iteration and new tokens per second of a run with the same model and batches."""
    settings = {group: dataclasses.asdict(getattr(config, group)) for group in SPEED_GROUPS}
    for path in sorted(Path(config.output).glob("*/config.json"), reverse=True):
        folder = RunFolder(path.parent)
        if not folder.logs.exists() or not _has_settings(folder, settings):
            continue
        lines = pd.DataFrame(read_json_lines(folder.logs))
        if set(lines) >= SPEED_METRICS:
            trainer = read_batches(folder).batches.applied_to(config).trainer
            micro_batch = trainer.micro_batch_size or trainer.rows_per_step
            updates = trainer.num_ppo_epochs * trainer.rows_per_iteration // micro_batch
            seconds = lines["timing/rollout"].mean() + updates * lines["timing/update"].mean()
            tokens = lines["completions/mean_length"].mean() * trainer.rows_per_iteration / seconds
            return (
                f"{folder.path.name} needed {seconds:.1f} s per iteration: {tokens:.0f} new tokens per second and "
                "process."
            )
    return f"Speed is unknown: no run in {config.output} has the same model, adapter, trainer and sampling settings."


def _has_settings(folder: RunFolder, settings: dict[str, Any]) -> bool:
    try:
        recorded = read_run_record(folder).config
    except UserError:  # of another version of mapft, or damaged; it is no matter of this plan
        return False
    return all(recorded.get(group) == settings[group] for group in settings)
