"""The pipeline: sample -> score -> solve -> train -> evaluate.

A stage is a function of a `Run`. It reads what earlier stages wrote, writes its own artifact into the run folder, and
does nothing where that is there already.
"""

from collections.abc import Callable

from mapft.pipeline.duration import print_duration
from mapft.pipeline.evaluate import evaluate, evaluated_policies
from mapft.pipeline.prompts import render_prompts
from mapft.pipeline.run import Run
from mapft.pipeline.sample import sample
from mapft.pipeline.score import score
from mapft.pipeline.solve import solve
from mapft.pipeline.train import train

STAGES: dict[str, Callable[[Run], None]] = {
    "sample": sample,
    "score": score,
    "solve": solve,
    "train": train,
    "evaluate": evaluate,
}
PARALLEL = ("sample", "score", "solve", "train")  # stages that processes other than the main one wait for or join


def run_stages(run: Run, last: str) -> None:
    """All stages up to and including `last`, in order; a new run with a training begins with how long it takes."""
    if run.is_main and last in ("train", "evaluate") and not run.folder.samples.exists():
        render_prompts(run)
        print_duration(run, evaluated_policies(run) if last == "evaluate" else {})
    for name, stage in STAGES.items():
        if run.is_main or name in PARALLEL:
            stage(run)
        if name == "train":
            _leave_process_group()
        if name == last:
            break


def _leave_process_group() -> None:
    """End the group of processes that trained: a process that exits inside it can abort, and ends all others too."""
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
