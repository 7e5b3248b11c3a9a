"""Which checkpoint to continue from."""

import warnings
from pathlib import Path

from mapft.ppo.critic import OPTIMIZER


def newest_whole(output_dir: Path, last_file: str = OPTIMIZER) -> str | None:
    """The checkpoint with the most steps that holds `last_file`, which is written last and appears by renaming.

    A newer one without it was torn by a kill: it is passed over with a warning.
    """
    named = [path for path in output_dir.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdigit()]
    checkpoints = sorted(named, key=step_of, reverse=True)
    for number, checkpoint in enumerate(checkpoints):
        if (checkpoint / last_file).exists():
            if number:
                torn = ", ".join(path.name for path in checkpoints[:number])
                warnings.warn(f"{torn} is torn, so training goes on from {checkpoint.name}.", stacklevel=2)
            return str(checkpoint)
    return None


def step_of(checkpoint: Path) -> int:
    """Optimizer steps done when it was saved."""
    return int(checkpoint.name.removeprefix("checkpoint-"))
