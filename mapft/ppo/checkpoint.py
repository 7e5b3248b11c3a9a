"""Checkpoints: the newest complete one, and a trainer that continues under another backend or number of processes."""

import warnings
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate.logging import get_logger
from peft import PeftModel

from mapft.ppo import optimizer_state
from mapft.ppo.critic import OPTIMIZER, Critic
from mapft.ppo.ppo_config import PPOConfig
from mapft.ppo.replay import STORE, ReplayStore
from mapft.ppo.schedule import Progress
from mapft.ppo.trl_seam import SCHEDULER_FILE, TRLSeam, without_deepspeed_loading
from mapft.utils.files import read_json, write_json

logger = get_logger(__name__)

PROGRESS = "progress.json"  # in a checkpoint


class ResumableTrainer(TRLSeam):
    """GRPOTrainer with a critic, whose checkpoints fall between iterations, where there is no rollout to save."""

    args: PPOConfig
    critic: Critic
    replay: ReplayStore
    begun: Progress  # where this process began: the start of the training, or a checkpoint

    def train(self, resume_from_checkpoint: str | bool | None = "auto", **kwargs: Any) -> Any:
        """Train, by default from the newest complete checkpoint in output_dir, if there is one.

        resume_from_checkpoint: "auto", the folder of a checkpoint, or None to start from the beginning.
        """
        if resume_from_checkpoint in ("auto", True):
            resume_from_checkpoint = newest_complete(Path(self.args.output_dir))
            if resume_from_checkpoint:
                logger.warning(
                    f"Continuing from {resume_from_checkpoint}; resume_from_checkpoint=None starts from the beginning."
                )
        if isinstance(resume_from_checkpoint, str):
            self.begun = Progress(**read_json(Path(resume_from_checkpoint) / PROGRESS))
            self.args.max_steps = self.begun.max_steps(self.args)
            if step_of(Path(resume_from_checkpoint)) >= self.args.max_steps:
                logger.warning("It is the last checkpoint of a finished training, so nothing is trained.")
        if isinstance(resume_from_checkpoint, str) and self.args.replay_batch:
            store = Path(resume_from_checkpoint) / STORE
            self.replay.load(store, self.accelerator.process_index, self.accelerator.num_processes)
        replaces_deepspeeds = self.portable and self.is_deepspeed_enabled
        if replaces_deepspeeds and isinstance(resume_from_checkpoint, str):
            self.load_weights(resume_from_checkpoint)
        with without_deepspeed_loading() if replaces_deepspeeds else nullcontext():
            return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    @property
    def portable(self) -> bool:
        """Whether a checkpoint can be read under another backend and number of processes."""
        return isinstance(self.model, PeftModel) and not self.is_fsdp_enabled

    @property
    def progress(self) -> Progress:
        """At this step."""
        return self.begun.after(self.state.global_step / self.args.steps_per_iteration, self.args)

    def may_save(self) -> bool:
        """Between iterations only; warns within one."""
        if self.state.global_step % self.args.steps_per_iteration == 0:
            return True
        logger.warning(
            f"No checkpoint at step {self.state.global_step}, which is within an iteration of "
            f"{self.args.steps_per_iteration} steps: its rollout would be lost."
        )
        return False

    def checkpoint_saved(self, folder: Path) -> None:
        """Save progress, replay store, and critic, which is the last of all files."""
        if self.args.replay_batch:
            self.replay.save(folder / STORE, is_main=self.args.should_save)
        if self.args.should_save:
            write_json(folder / PROGRESS, asdict(self.progress))
            self.critic.save(folder)

    def checkpoint_loaded(self, folder: Path) -> None:
        """Load the critic."""
        self.critic.load(folder)

    def save_optimizer(self, folder: Path) -> None:
        """Optimizer and learning-rate schedule in files that no backend is needed for."""
        state = optimizer_state.gather_state(self.model, optimizer_state.innermost(self.optimizer))
        if self.args.should_save:
            optimizer_state.save(folder, state)
            schedule = self.lr_scheduler.state_dict()  # each backend has its own groups; all have one schedule
            first = {key: entry[:1] if isinstance(entry, list) else entry for key, entry in schedule.items()}
            torch.save(first, folder / SCHEDULER_FILE)

    def load_optimizer(self, folder: Path) -> None:
        """What `save_optimizer` wrote."""
        state = optimizer_state.load(folder)
        optimizer_state.restore_state(state, self.model, optimizer_state.innermost(self.optimizer))
        schedule = torch.load(folder / SCHEDULER_FILE, weights_only=True)
        groups = self.optimizer.param_groups
        for group in groups:
            group["lr"] = schedule["_last_lr"][0]
        self.lr_scheduler.load_state_dict(
            {key: entry * len(groups) if isinstance(entry, list) else entry for key, entry in schedule.items()}
        )


def newest_complete(output_dir: Path, last_file: str = OPTIMIZER) -> str | None:
    """The checkpoint with the most steps that contains `last_file`, which is written last and appears by renaming.

    A newer one without it, whose writing was interrupted, is skipped with a warning.
    """
    folders = [path for path in output_dir.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdigit()]
    checkpoints = sorted(folders, key=step_of, reverse=True)
    for number, checkpoint in enumerate(checkpoints):
        if (checkpoint / last_file).exists():
            if number:
                skipped = ", ".join(path.name for path in checkpoints[:number])
                warnings.warn(f"{skipped} is incomplete; training continues from {checkpoint.name}.", stacklevel=2)
            return str(checkpoint)
    return None


def step_of(checkpoint: Path) -> int:
    """Optimizer steps done when it was saved."""
    return int(checkpoint.name.removeprefix("checkpoint-"))
