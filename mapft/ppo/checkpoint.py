"""Checkpoints: which one to go on from, and a trainer whose own go on under another backend or number of processes."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers.trainer
from accelerate.logging import get_logger
from peft import PeftModel
from transformers.trainer import SCHEDULER_NAME
from trl import GRPOTrainer

from mapft.ppo import optimizer_state
from mapft.ppo.config import PPOConfig
from mapft.ppo.critic import OPTIMIZER, Critic

logger = get_logger(__name__)


class ResumableTrainer(GRPOTrainer):
    """GRPOTrainer with a critic, whose checkpoints fall between iterations, where there is no rollout to save."""

    args: PPOConfig
    critic: Critic

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        if self.state.global_step % self.args.steps_per_iteration:
            logger.warning(
                f"No checkpoint at step {self.state.global_step}, which lies within an iteration of "
                f"{self.args.steps_per_iteration} steps: its rollout would be lost."
            )
            return
        super()._save_checkpoint(model, trial)
        if self.args.should_save:
            self.critic.save(Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}")

    def train(self, resume_from_checkpoint: str | bool | None = "auto", **kwargs: Any) -> Any:
        """Train, by default on from the newest whole checkpoint in output_dir, where there is one.

        resume_from_checkpoint: "auto", the folder of a checkpoint, or None to start afresh.
        """
        if resume_from_checkpoint in ("auto", True):
            resume_from_checkpoint = newest_whole(Path(self.args.output_dir))
            if resume_from_checkpoint:
                logger.warning(f"Going on from {resume_from_checkpoint}; resume_from_checkpoint=None starts afresh.")
                if step_of(Path(resume_from_checkpoint)) >= self.args.max_steps:
                    logger.warning("It is the end of a finished run: there is nothing left to train.")
        with self._own_checkpoints(resume_from_checkpoint):
            return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    @contextmanager
    def _own_checkpoints(self, resume_from: str | bool | None) -> Iterator[None]:
        """Under DeepSpeed, transformers wants DeepSpeed's own files; ours are read before and after it would."""
        if not (self._portable and self.is_deepspeed_enabled):
            yield
            return
        if isinstance(resume_from, str):
            self._load_from_checkpoint(resume_from)
        theirs = transformers.trainer.deepspeed_load_checkpoint
        transformers.trainer.deepspeed_load_checkpoint = lambda *_, **__: None
        try:
            yield
        finally:
            transformers.trainer.deepspeed_load_checkpoint = theirs

    @property
    def _portable(self) -> bool:
        """Whether a checkpoint may be written under one backend and number of processes and read under another."""
        return isinstance(self.model, PeftModel) and not self.is_fsdp_enabled

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self._portable:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        state = optimizer_state.whole(self.model, optimizer_state.innermost(self.optimizer))
        if self.args.should_save:
            optimizer_state.save(Path(output_dir), state)
            schedule = self.lr_scheduler.state_dict()  # backends make groups as they like; all have one schedule
            one = {key: given[:1] if isinstance(given, list) else given for key, given in schedule.items()}
            torch.save(one, Path(output_dir) / SCHEDULER_NAME)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        folder = Path(checkpoint)
        if self._portable:
            state = optimizer_state.load(folder)
            optimizer_state.restore(state, self.model, optimizer_state.innermost(self.optimizer))
            schedule = torch.load(folder / SCHEDULER_NAME, weights_only=True)
            groups = self.optimizer.param_groups
            for group in groups:
                group["lr"] = schedule["_last_lr"][0]
            self.lr_scheduler.load_state_dict(
                {key: given * len(groups) if isinstance(given, list) else given for key, given in schedule.items()}
            )
        else:
            super()._load_optimizer_and_scheduler(checkpoint)
        self.critic.load(folder)


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
