"""Lambda during training: the pilot's to begin with, refined on the rollouts of every few iterations.

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
from mapft.palette import Palette, RewardMatrix, refine
from mapft.sampling.store import read_json, write_json

REFINEMENTS = "refinement.json"  # in the run folder: the history; in a checkpoint: the pending rollouts too
SETTLED = 0.8  # a violation that is still this much of the last one no longer shrinks by itself


class RefinedLambda(TrainerCallback):
    """The multipliers that training uses, and how they came about.

    After every `every` iterations the rollouts of those iterations are a window. Its violation, with gap_i =
    (level_i - c_i) / sd_i in sd of the base scores, is max_i |min(lam_i sd_i, gap_i)|: 0 where the palette is kept at
    least cost. lam is refined on the window (palette.refine) when the violation is above `tolerance` and above the
    standard error of a level, and has settled: while the policy still moves towards the last lam by itself, a
    refinement would overshoot. None before `start` and
    none at the end. All processes hold the same rollouts, hence the same lam; the main one writes.
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
        """Take in the rollouts of one iteration, scores (B,) by value; the multipliers to reward them with."""
        every = self.settings.every
        if every is None:
            return self.lam
        columns = np.stack([scores[name] for name in self.start], axis=1)
        for part, rows in gather_object([(list(prompts), columns.tolist())]):
            self._prompts += part
            self._scores += rows
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
        rollouts = RewardMatrix(self._scores, list(lam), [ids[prompt] for prompt in self._prompts])
        self._prompts, self._scores = [], []
        gap = {name: (rollouts.base[name] - c) / self.sd[name] for name, c in targets.items() if self.sd[name] > 0}
        violation = max((abs(min(lam[name] * self.sd[name], gap[name])) for name in gap), default=0.0)
        before = self.history[-1]["violation_sd"] if self.history else math.inf
        record = {"step": step, "gap_sd": gap, "violation_sd": violation, "rollouts": len(rollouts)}
        noise = max((rollouts.sd[name] / self.sd[name] / len(rollouts) ** 0.5 for name in gap), default=0.0)
        if may_refine and violation > max(self.settings.tolerance, noise, SETTLED * before):
            refined = refine(rollouts, Palette(targets), lam)
            record |= {"lam": refined.lam, "delta": refined.delta, "aim": refined.aim, "ess": refined.ess}
        self.history.append({"lam": lam} | record)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """The last file of a checkpoint: without it the checkpoint is not whole."""
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if state.is_world_process_zero and checkpoint.exists():  # the trainer writes none within an iteration
            pending = {"windows": self.history, "prompts": self._prompts, "scores": self._scores}
            write_json(checkpoint / REFINEMENTS, pending)

    def load(self, checkpoint: Path) -> None:
        """Continue from a checkpoint."""
        saved = read_json(checkpoint / REFINEMENTS)
        self.history, self._prompts, self._scores = saved["windows"], saved["prompts"], saved["scores"]


def read_history(path: Path) -> list[dict[str, Any]]:
    """All windows of a training, oldest first, each with the lam that it led to; none where refinement is off."""
    return read_json(path)["windows"] if path.exists() else []
