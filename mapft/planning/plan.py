"""What `mapft plan` says: the memory of a device in parts, whether it fits, and the least change that makes it."""

import dataclasses
from pathlib import Path
from typing import Any

import pandas as pd
import psutil

from mapft.config import Config, Quantization, Residency, SimultaneousMode
from mapft.errors import UserError
from mapft.launching import LAUNCHERS, gpus
from mapft.planning.memory import GB, SHARDED, Memory, estimate, rollout_rows
from mapft.sampling.store import read_json

USABLE = 0.94  # of a device's memory; an allocator never fills all of it


def plan(config: Config) -> str:
    """The table, in 10^9 bytes, and one sentence or two.

    Raises UserError for a launcher that there is not, and where nothing says how much memory a GPU has.
    """
    launch = config.launch
    if launch.name not in LAUNCHERS:
        raise UserError(f"launch.name={launch.name} is unknown; use one of {', '.join(LAUNCHERS)}.")
    capacity = _capacity(config)
    memory = estimate(config, capacity)
    share = memory.peak / capacity
    lines = [_table(memory), ""]
    what = "host" if launch.name == "cpu" else f"each of {launch.processes} GPU{'s' * (launch.processes > 1)}"
    lines.append(
        f"{memory.peak / GB:.2f} of {capacity / GB:.1f} GB ({share:.0%}) on {what}: "
        f"{'it fits' if share <= USABLE else 'it does not fit'}."
    )
    if share > USABLE:
        lines.append(_remedy(config, capacity, memory.peak))
    lines.append(_speed(config))
    return "\n".join(lines)


def _capacity(config: Config) -> float:
    if config.launch.memory_gb is not None:
        return config.launch.memory_gb * GB
    if config.launch.name == "cpu":
        return float(psutil.virtual_memory().total)
    if gpus():
        import torch

        return float(torch.cuda.get_device_properties(0).total_memory)
    raise UserError("There is no GPU here to plan for; say what one holds, as launch.memory_gb=80.")


def _table(memory: Memory) -> str:
    most = max(memory.phases, key=lambda name: memory.phases[name])
    rows = [(name, size, "stays") for name, size in memory.stays.items()]
    rows += [(name, size, "on top, the most" if name == most else "on top") for name, size in memory.phases.items()]
    return "\n".join(f"{name:<14}{size / GB:>9.3f} GB  {how}" for name, size, how in rows)


# ---------------------------------------------------------------------- what would make it fit


Change = dict[str, Any]  # of settings, by their names


def changes(config: Config) -> list[Change]:
    """What takes less memory; what leaves the result as it is comes first."""
    trainer = config.trainer
    found: list[Change] = []
    if isinstance(config.mode, SimultaneousMode):
        ways = (
            [Residency.one_at_a_time] if config.launch.name == "cpu" else [Residency.offload, Residency.one_at_a_time]
        )
        found += [{"mode.reward_models": way} for way in ways if way is not config.mode.reward_models]
    if trainer.local_rollout_forward_batch_size > 8:
        found.append({"trainer.local_rollout_forward_batch_size": 8})
    rows, passes = trainer.per_device_train_batch_size, trainer.gradient_accumulation_steps
    while rows % 2 == 0:
        rows, passes = rows // 2, passes * 2
        found.append({"trainer.per_device_train_batch_size": rows, "trainer.gradient_accumulation_steps": passes})
    if not trainer.gradient_checkpointing:
        found.append({"trainer.gradient_checkpointing": True})
    whole = config.model.quantization is Quantization.none and config.launch.name not in SHARDED
    if config.launch.name in ("ddp", "zero2", "multi_node") and config.launch.processes > 1 and whole:
        found.append({"launch.name": "zero3"})
    if trainer.num_mini_batches > 1:
        found.append({"trainer.num_mini_batches": 1})
    if whole:
        found.append({"model.quantization": Quantization.nf4})
    return found


def _remedy(config: Config, capacity: float, best: float) -> str:
    """The first change that is enough alone; else those of them, in their order, that are enough together.

    best: bytes that are needed without any.
    """
    for change in changes(config):
        if estimate(_with(config, change), capacity).peak <= USABLE * capacity:
            return f"Smallest change after which it fits: {_words(change)}."
    settings = config
    kept: Change = {}
    tried: list[Change] = []
    while change := next((each for each in changes(settings) if each not in tried), {}):
        tried.append(change)
        peak = estimate(_with(settings, change), capacity).peak
        if peak < best:
            best, settings = peak, _with(settings, change)
            kept |= change
        if best <= USABLE * capacity:
            return f"It fits with these together: {_words(kept)}."
    least = f"; with {_words(kept)} it takes {best / GB:.2f} GB" if kept else ""
    return f"Nothing here makes it fit{least}."


def _words(change: Change) -> str:
    return " ".join(f"{name}={str(value).lower()}" for name, value in change.items())


def _with(config: Config, change: Change) -> Config:
    for name, value in change.items():
        part, setting = name.split(".")
        config = dataclasses.replace(config, **{part: dataclasses.replace(getattr(config, part), **{setting: value})})
    return config


# ---------------------------------------------------------------------- speed


def _speed(config: Config) -> str:
    """Seconds an iteration and new tokens a second of a finished run with the same model and batches, if any."""
    trained = ("model", "adapter", "trainer", "sampling")
    wanted = {part: dataclasses.asdict(getattr(config, part)) for part in trained}
    for record in sorted(Path(config.output).glob("*/config.json"), reverse=True):
        logs = record.with_name("logs.jsonl")
        found = read_json(record)["config"]
        if logs.exists() and all(found[part] == wanted[part] for part in trained):
            lines = pd.read_json(logs, lines=True)
            if not {"timing/rollout", "timing/update", "completions/mean_length"} <= set(lines):
                continue
            trainer = config.trainer
            passes = trainer.num_ppo_epochs * trainer.num_mini_batches * trainer.gradient_accumulation_steps
            seconds = lines["timing/rollout"].mean() + passes * lines["timing/update"].mean()
            new = lines["completions/mean_length"].mean() * rollout_rows(config) / seconds
            return f"{record.parent.name} took {seconds:.1f} s an iteration, {new:.0f} new tokens a second and process."
    return f"No run in {config.output} has these settings, so nothing is said about speed."
