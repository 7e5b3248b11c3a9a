"""Lambda during training: the pilot's to begin with, refined on the rollouts of every few iterations.

The history lies in refinement.json, one record per refinement. Checkpoints fall between two refinements, when no
rollouts are pending, so the history up to a checkpoint's step is all that resuming needs.

Legend: B responses of this process, N rollouts of all processes since the last refinement, V values.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from accelerate.utils import gather_object
from transformers import TrainerState

from mapft.config import RefineConfig
from mapft.palette import DualSolution, Palette, RewardMatrix, refine
from mapft.sampling.store import read_json, write_json

REFINEMENTS = "refinement.json"


class RefinedLambda:
    """The multipliers that training uses, and how they came about.

    Every `every` iterations, from `start` on and but for the last, lam is refined on the rollouts of those iterations
    (palette.refine), unless every target is kept within `tolerance` sd of the base scores. All processes hold the
    same rollouts and so the same lam; `writes` is true on one of them.
    """

    def __init__(
        self,
        solution: DualSolution,
        sd: Mapping[str, float],
        settings: RefineConfig,
        path: Path,
        steps_per_iteration: int,
        writes: bool,
    ):
        self.solution, self.sd, self.settings, self.path = solution, sd, settings, path
        self.steps_per_iteration, self.writes = steps_per_iteration, writes
        self.history: list[dict[str, Any]] = []
        self._prompts: list[str] = []
        self._scores: list[np.ndarray] = []

    @property
    def lam(self) -> dict[str, float]:
        """Multipliers per raw unit."""
        return self.history[-1]["lam"] if self.history else self.solution.lam

    def resume(self, step: int) -> None:
        """Forget what came after the checkpoint of this step."""
        if step:
            self.history = [record for record in read_history(self.path) if record["step"] < step]

    def observe(self, state: TrainerState, prompts: Sequence[str], scores_BV: np.ndarray) -> dict[str, float]:
        """Take in the rollouts of one iteration; the multipliers to reward them with."""
        every = self.settings.every
        if every is None:
            return self.lam
        done, iterations = (steps // self.steps_per_iteration for steps in (state.global_step, state.max_steps))
        gathered = gather_object([(prompts, scores_BV)])
        self._prompts += [prompt for part, _ in gathered for prompt in part]
        self._scores += [scores for _, scores in gathered]
        if (done + 1) % every == 0:
            if self.settings.start * iterations <= done + 1 < iterations:
                self._refine(state.global_step)
            self._prompts, self._scores = [], []
        return self.lam

    def _refine(self, step: int) -> None:
        ids = {prompt: number for number, prompt in enumerate(dict.fromkeys(self._prompts))}
        values, targets = list(self.solution.lam), self.solution.targets
        rollouts = RewardMatrix(np.concatenate(self._scores), values, [ids[prompt] for prompt in self._prompts])
        gap = {name: (rollouts.base[name] - c) / self.sd[name] for name, c in targets.items() if self.sd[name] > 0}
        record = {
            "step": step,
            "lam": self.lam,
            "gap_sd": gap,
            "delta": dict.fromkeys(values, 0.0),
            "ess": len(rollouts),
        }
        if max(abs(min(self.lam[name] * self.sd[name], gap[name])) for name in gap) > self.settings.tolerance:
            better = refine(rollouts, Palette(targets), self.lam)
            record |= {"lam": better.lam, "delta": better.delta, "ess": better.ess}
        self.history.append(record | {"rollouts": len(rollouts)})
        if self.writes:
            write_json(self.path, {"refinements": self.history})


def read_history(path: Path) -> list[dict[str, Any]]:
    """All refinements of a run, oldest first; none where lam was never refined."""
    return read_json(path)["refinements"] if path.exists() else []
