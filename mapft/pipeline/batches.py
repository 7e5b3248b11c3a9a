"""The batches of a run: as many responses in a pass as fit into memory, chosen once -> batches.json."""

from dataclasses import replace

from mapft.config import Config
from mapft.pipeline.artifacts import BatchesRecord, read_batches, write_batches
from mapft.pipeline.run import Run
from mapft.sampling.prompts import longest_prompt

LARGE_GB = 0.5  # from here on, memory is estimated, and what is freed goes back to the system
SMALL_SHARE = 0.25  # of the free memory; below, memory is not estimated


def batched_config(run: Run) -> Config:
    """The run's settings with its batches.

    The main process chooses them when they are first needed, says so, and writes them down for the other processes and
    for a run that is continued: sums over other micro-batches differ by rounding.
    """
    from mapft.utils.device import device, return_freed_memory

    if run.is_main and not run.folder.batches.exists():
        write_batches(run.folder, _chosen(run))
    run.wait_for(run.folder.batches)
    record = read_batches(run.folder)
    if record.peak_gb > LARGE_GB and device().type == "cpu":
        return_freed_memory()
    return record.batches.applied_to(run.config)


def _chosen(run: Run) -> BatchesRecord:
    from mapft.planning import GB, USABLE, CannotEstimate, Phases, capacity, estimate, most_bytes, undivided

    config = as_launched(run.config)
    free, prompt_tokens = capacity(config), longest_prompt(run.prompts.training + run.prompts.held_out)
    try:
        most = most_bytes(config, prompt_tokens) / GB
        if most < min(LARGE_GB, SMALL_SHARE * free / GB):
            return BatchesRecord(undivided(config), most)
        memory = estimate(config, Phases(config, prompt_tokens), free)
    except CannotEstimate as error:
        run.console.print(f"{error} Set trainer.micro_batch_size if it is too much.", soft_wrap=True)
        return BatchesRecord(undivided(config), 0.0)
    needed = f"Memory: about {memory.peak / GB:.1f} of {free / GB:.1f} GB"
    if memory.peak > USABLE * free:
        needed += ", so this run may fail; `mapft plan` with the same settings says what reduces it"
    run.console.print(f"{needed}. {memory.batches.sentence(config)}", soft_wrap=True)
    return BatchesRecord(memory.batches, memory.peak / GB)


def as_launched(config: Config) -> Config:
    """The settings with launch.name as this machine runs them: on a GPU where it has one, else on the CPU."""
    from mapft.utils.gpus import visible_gpus

    name = config.launch.name if visible_gpus() else "cpu"
    return replace(config, launch=replace(config.launch, name="gpu" if name == "cpu" and visible_gpus() else name))
