"""Lambda during training: first the pilot's, then refined on the rollouts of every few iterations.

Legend: B responses of this process, N rollouts of all processes since the last refinement, V values.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from accelerate.utils import gather_object
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from mapft.config import RefineConfig
from mapft.palette import Palette, ScoreMatrix, refine
from mapft.utils.files import parsing, read_json, write_json

CHECKPOINT_FILE = "refinement.json"  # in a checkpoint: the history and the rollouts of the current window
NOT_SHRINKING = 0.8  # a violation above this share of the previous one no longer shrinks by itself


class RefinedLambda(TrainerCallback):
    """The multipliers of a training, and their history.

    The rollouts of `every` iterations form a window. With gap_i = (level_i - c_i) / sd_i, in sd of the base scores,
    its violation is max_i |min(lam_i sd_i, gap_i)|, which is 0 exactly where the KKT conditions of the palette hold.
    lam is refined on the window (palette.refine) if the violation is above `tolerance`, above the standard error of a
    level, and no longer shrinking: while the policy still moves towards the current lam, a refinement would overshoot.
    lam is not refined before `start` (a share of the training) nor at the end. All processes have the same rollouts,
    hence the same lam; the main process writes the history to `path`.
    """

    def __init__(
        self,
        lam: Mapping[str, float],
        targets: Mapping[str, float],
        sd: Mapping[str, float],
        settings: RefineConfig,
        path: Path,
        iteration_steps: int,
    ):
        self.start, self.targets, self.sd, self.settings, self.path = dict(lam), targets, sd, settings, path
        self.iteration_steps = iteration_steps
        self.history: list[dict[str, Any]] = []
        self._prompts: list[str] = []
        self._scores: list[list[float]] = []  # (N, V), columns in the order of `start`

    @property
    def lam(self) -> dict[str, float]:
        """Multipliers per raw unit."""
        return self.history[-1]["lam"] if self.history else self.start

    def observe(
        self, state: TrainerState, prompts: Sequence[str], scores: Mapping[str, np.ndarray]
    ) -> dict[str, float]:
        """Record the rollouts of one iteration, scores (B,) by value; returns the multipliers of their reward."""
        every = self.settings.every
        if every is None:
            return self.lam
        columns = np.stack([scores[name] for name in self.start], axis=1)
        for process_prompts, process_scores in gather_object([(list(prompts), columns.tolist())]):
            self._prompts += process_prompts
            self._scores += process_scores
        done = state.global_step // self.iteration_steps + 1
        if done % every == 0:
            progress = done * self.iteration_steps / state.max_steps
            self._close_window(state.global_step, may_refine=self.settings.start <= progress < 1)
            if state.is_world_process_zero:
                write_json(self.path, {"windows": self.history})
        return self.lam

    def _close_window(self, step: int, may_refine: bool) -> None:
        lam, targets = self.lam, self.targets
        ids = {prompt: number for number, prompt in enumerate(dict.fromkeys(self._prompts))}
        rollouts = ScoreMatrix(self._scores, list(lam), [ids[prompt] for prompt in self._prompts])
        self._prompts, self._scores = [], []
        gap = {name: (rollouts.base[name] - c) / self.sd[name] for name, c in targets.items() if self.sd[name] > 0}
        violation = max((abs(min(lam[name] * self.sd[name], gap[name])) for name in gap), default=0.0)
        previous = self.history[-1]["violation_sd"] if self.history else math.inf
        record = {"step": step, "gap_sd": gap, "violation_sd": violation, "rollouts": len(rollouts)}
        noise = max((rollouts.sd[name] / self.sd[name] / len(rollouts) ** 0.5 for name in gap), default=0.0)
        if may_refine and violation > max(self.settings.tolerance, noise, NOT_SHRINKING * previous):
            refined = refine(rollouts, Palette(targets), lam)
            record |= {"lam": refined.lam, "delta": refined.delta, "share": refined.share, "ess": refined.ess}
        self.history.append({"lam": lam} | record)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Write the last file of a checkpoint; without it the checkpoint is incomplete."""
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if state.is_world_process_zero and checkpoint.exists():  # there is none within an iteration
            pending = {"windows": self.history, "prompts": self._prompts, "scores": self._scores}
            write_json(checkpoint / CHECKPOINT_FILE, pending)

    def load(self, checkpoint: Path) -> None:
        """Continue from a checkpoint."""
        saved = read_json(checkpoint / CHECKPOINT_FILE)
        with parsing(checkpoint / CHECKPOINT_FILE):
            self.history, self._prompts, self._scores = saved["windows"], saved["prompts"], saved["scores"]


def read_history(path: Path) -> list[dict[str, Any]]:
    """All windows of a training, oldest first, each with the lam after it; empty without refinement."""
    if not path.exists():
        return []
    with parsing(path):
        return read_json(path)["windows"]
