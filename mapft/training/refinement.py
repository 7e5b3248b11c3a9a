"""Lambda during training: first the pilot's, then refined on the rollouts of every few iterations.

Legend: B responses of this process, N rollouts of all processes, V values.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
from accelerate.utils import gather_object
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from mapft.config import RefineConfig
from mapft.palette import Palette, ScoreMatrix, estimate, increment
from mapft.palette.precision import Z95
from mapft.utils.files import parsing, read_json, write_json

CHECKPOINT_FILE = "refinement.json"  # in a checkpoint: the history, and the rollouts of later windows
MAX_ROLLOUTS = 16_384  # the newest ones, on which lambda is refined
NOT_SHRINKING = 0.8  # a violation above this share of the previous one no longer shrinks by itself


class RefinedLambda(TrainerCallback):
    """The multipliers of a training, and their history.

    The rollouts of `every` iterations form a window. At its end lambda is estimated (palette.estimate) from the newest
    half of all rollouts and their known log pi/p_ref, and moves to the estimate where any multiplier differs from it by
    more than its standard error. The estimate does not depend on how close the policy is to p_lam.

    compensate: lambda is raised until the levels of the policy itself meet the targets (palette.increment), at a KL
    above the least. With gap_i = (level_i - c_i) / sd_i, in sd of the base scores, the violation of a window is
    max_i |min(lam_i sd_i, gap_i)|. A step is taken where it is above `tolerance`, above the standard error of a level,
    and no longer shrinking: while the policy still moves towards the current lam, a step would overshoot.

    lam is not refined before `start` (a share of the training) nor at the end. All processes have the same rollouts,
    hence the same lam; the main process writes the history to `path`. reference_lam: of the reference policy.
    """

    def __init__(
        self,
        lam: Mapping[str, float],
        reference_lam: Mapping[str, float],
        targets: Mapping[str, float],
        sd: Mapping[str, float],
        settings: RefineConfig,
        path: Path,
        iteration_steps: int,
    ):
        self.start, self.reference_lam, self.targets, self.sd = dict(lam), reference_lam, targets, sd
        self.settings, self.path, self.iteration_steps = settings, path, iteration_steps
        self.history: list[dict[str, Any]] = []
        self._iterations = 0  # with rollouts, so far
        self._window = 0  # rollouts since the last refinement
        self._prompts: list[str] = []
        self._rows: list[list[float]] = []  # the newest: scores in the order of `start`, then log pi/p_ref

    @property
    def lam(self) -> dict[str, float]:
        """Multipliers per raw unit."""
        return self.history[-1]["lam"] if self.history else self.start

    @property
    def metrics(self) -> dict[str, float]:
        """Targets and, where lambda was estimated on rollouts, its 95 % interval (see mapft.tracking.glossary)."""
        metrics = {f"map/target/{name}": target for name, target in self.targets.items()}
        for name, error in standard_errors(self.history).items():
            metrics[f"map/lam_low/{name}"] = max(self.lam[name] - Z95 * error, 0.0)
            metrics[f"map/lam_high/{name}"] = self.lam[name] + Z95 * error
        return metrics

    def observe(
        self,
        state: TrainerState,
        prompts: Sequence[str],
        scores: Mapping[str, np.ndarray],
        log_ratio_B: Sequence[float],
    ) -> dict[str, float]:
        """Record the rollouts of one iteration, scores (B,) by value; returns the multipliers of their reward."""
        every = self.settings.every
        if every is None:
            return self.lam
        columns = np.column_stack([*(scores[name] for name in self.start), log_ratio_B])
        for process_prompts, process_rows in gather_object([(list(prompts), columns.tolist())]):
            self._prompts += process_prompts
            self._rows += process_rows
            self._window += len(process_rows)
        self._iterations += 1
        if self._iterations % every == 0:
            progress = (state.global_step + self.iteration_steps) / state.max_steps
            self._close_window(state.global_step, may_refine=self.settings.start <= progress < 1)
            if state.is_world_process_zero:
                write_json(self.path, {"windows": self.history})
        return self.lam

    def _close_window(self, step: int, may_refine: bool) -> None:
        lam, targets = self.lam, self.targets
        windows = min(len(self.history) // 2 + 1, max(MAX_ROLLOUTS // self._window, 1))
        newest = windows * self._window
        del self._prompts[:-newest], self._rows[:-newest]
        window, _ = self._matrix(self._window)
        gap = {name: (window.base[name] - c) / self.sd[name] for name, c in targets.items() if self.sd[name] > 0}
        violation = max((abs(min(lam[name] * self.sd[name], gap[name])) for name in gap), default=0.0)
        record = {"step": step, "lam": lam, "gap_sd": gap, "violation_sd": violation, "rollouts": newest}
        if may_refine:
            record |= self._compensated(window, gap, violation) if self.settings.compensate else self._estimated()
        self.history.append(record)
        self._window = 0

    def _estimated(self) -> dict[str, Any]:
        counts = Counter(self._prompts)
        repeated = [counts[prompt] > 1 for prompt in self._prompts]
        if not any(repeated):
            return {}
        rollouts, log_ratio_N = self._matrix(len(self._rows), repeated)
        solution = estimate(rollouts, log_ratio_N, Palette(self.targets), self.lam, self.reference_lam)
        if solution is None:
            return {}
        error = solution.standard_error
        moves = any(abs(solution.lam[name] - lam) > error[name] for name, lam in self.lam.items())
        return {"lam": solution.lam if moves else self.lam, "standard_error": error, "ess": solution.ess}

    def _compensated(self, window: ScoreMatrix, gap: Mapping[str, float], violation: float) -> dict[str, Any]:
        previous = self.history[-1]["violation_sd"] if self.history else math.inf
        noise = max((window.sd[name] / self.sd[name] / len(window) ** 0.5 for name in gap), default=0.0)
        if violation <= max(self.settings.tolerance, noise, NOT_SHRINKING * previous):
            return {}
        step = increment(window, Palette(self.targets), self.lam)
        return {"lam": step.lam, "delta": step.delta, "share": step.share, "ess": step.ess / len(window)}

    def _matrix(self, newest: int, keep: Sequence[bool] | None = None) -> tuple[ScoreMatrix, np.ndarray]:
        """Scores and log pi/p_ref of the newest rollouts, or of those of them to keep."""
        keep = [True] * newest if keep is None else keep
        prompts = list(compress(self._prompts[-newest:], keep))
        rows = np.array(list(compress(self._rows[-newest:], keep)))
        ids = {prompt: number for number, prompt in enumerate(dict.fromkeys(prompts))}
        return ScoreMatrix(rows[:, :-1], list(self.start), [ids[prompt] for prompt in prompts]), rows[:, -1]

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Write the last file of a checkpoint; without it the checkpoint is incomplete."""
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if state.is_world_process_zero and checkpoint.exists():  # there is none within an iteration
            pending = {
                "iterations": self._iterations,
                "window": self._window,
                "prompts": self._prompts,
                "rows": self._rows,
            }
            write_json(checkpoint / CHECKPOINT_FILE, {"windows": self.history} | pending)

    def load(self, checkpoint: Path) -> None:
        """Continue from a checkpoint."""
        saved = read_json(checkpoint / CHECKPOINT_FILE)
        with parsing(checkpoint / CHECKPOINT_FILE):
            self.history, self._prompts, self._rows = saved["windows"], saved["prompts"], saved["rows"]
            self._iterations, self._window = saved["iterations"], saved["window"]


def read_history(path: Path) -> list[dict[str, Any]]:
    """All windows of a training, oldest first, each with the lam after it; empty without refinement."""
    if not path.exists():
        return []
    with parsing(path):
        return read_json(path)["windows"]


def standard_errors(history: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Standard errors of the last estimate; empty where there is none."""
    return next((window["standard_error"] for window in reversed(history) if "standard_error" in window), {})
