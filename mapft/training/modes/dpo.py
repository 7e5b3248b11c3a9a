"""Baseline: DPO (Rafailov et al., 2023) on pairs of pilot samples that lam.r ranks.

Legend: N pilot samples.
"""

import math
from collections.abc import Collection, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mapft.config import ModeConfig, Residency
from mapft.config.fields import setting
from mapft.palette import ScoreMatrix
from mapft.utils.errors import UserError
from mapft.utils.seeds import derive_seed

COMPLETE = "complete"  # a file in a checkpoint whose other files are all written


@dataclass(kw_only=True)
class DPO(ModeConfig):
    """DPO on trainer.total_episodes / 2 pairs of pilot samples; the sample with the higher lam.r is preferred.

    It trains on the tokens that were sampled: as texts they would lose special tokens, and get an EOS that was not
    sampled where they are longer than sampling.max_new_tokens.
    """

    beta: float = setting(0.1, "DPO's beta.", above=0)
    learning_rate: float | None = setting(None, "Learning rate of DPO.", above=0, null="use trainer.learning_rate")

    def check(self, config: Any, targets: Collection[str]) -> None:
        """Nothing: rollouts and replay are not used."""

    def scored_responses(self, total_episodes: int, pilot: int, folder: Any) -> int:
        """0: DPO uses the pilot's scores alone."""
        return 0

    @property
    def residency(self) -> Residency | None:
        """None: no response is scored while DPO trains."""
        return None

    def train(self, inputs: Any) -> None:
        """adapter/ and logs.jsonl in the run folder."""
        if not inputs.folder.adapter.exists():
            _train(self, inputs)


def _train(mode: DPO, inputs: Any) -> None:
    import torch
    from transformers import ProgressCallback, TrainerCallback
    from trl import DPOConfig

    from mapft.ppo.checkpoint import newest_complete
    from mapft.ppo.trl_seam import TokenDPOTrainer
    from mapft.sampling.models import load_policy
    from mapft.tracking.lines import JsonLines, LevelBar
    from mapft.training.adapter import lora_config, save_adapter
    from mapft.utils.files import write_text

    class MarkComplete(TrainerCallback):
        """Marks a complete checkpoint: a kill can truncate the last file that transformers writes."""

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.is_world_process_zero:
                write_text(Path(args.output_dir) / f"checkpoint-{state.global_step}" / COMPLETE, str(args.world_size))

    config, folder, trainer = inputs.config, inputs.folder, inputs.config.trainer
    policy, tokenizer = load_policy(config.model)
    gpu = torch.cuda.is_available()
    micro_batch = trainer.micro_batch_size or trainer.per_device_train_batch_size
    pairs_per_step = trainer.rows_per_step // 2 or 1
    pairs_per_pass = math.gcd(micro_batch // 2 or 1, pairs_per_step)
    args = DPOConfig(
        output_dir=str(folder.checkpoints),
        beta=mode.beta,
        learning_rate=mode.learning_rate or trainer.learning_rate,
        per_device_train_batch_size=pairs_per_pass,
        gradient_accumulation_steps=pairs_per_step // pairs_per_pass,
        max_grad_norm=trainer.max_grad_norm,
        lr_scheduler_type=trainer.lr_scheduler_type,
        warmup_steps=trainer.warmup_steps,
        weight_decay=trainer.weight_decay,
        adam_beta1=trainer.adam_beta1,
        adam_beta2=trainer.adam_beta2,
        adam_epsilon=trainer.adam_epsilon,
        gradient_checkpointing=bool(trainer.gradient_checkpointing),
        logging_steps=trainer.logging_steps,
        save_steps=trainer.save_steps,
        save_total_limit=trainer.save_total_limit,
        num_train_epochs=1,
        max_length=None,
        seed=config.seed,
        bf16=gpu and config.model.dtype.value in ("auto", "bfloat16"),
        use_cpu=not gpu,
        report_to=[],
    )
    pairs = trainer.total_episodes // 2
    dpo = TokenDPOTrainer(
        policy,
        args=args,
        train_dataset=preferences(inputs.samples, inputs.matrix, inputs.solution.lam, pairs, config.seed),
        processing_class=tokenizer,
        peft_config=None if config.model.adapter else lora_config(config),
        callbacks=[JsonLines(folder.logs), MarkComplete()],
    )
    dpo.remove_callback(ProgressCallback)
    dpo.add_callback(bar := LevelBar({}, {}))
    checkpoint = newest_complete(folder.checkpoints, last_file=COMPLETE)
    if checkpoint and (processes := (Path(checkpoint) / COMPLETE).read_text("utf-8")) != str(args.world_size):
        raise UserError(
            f"{checkpoint} is of {processes} processes, and DPO takes as many steps as its number of processes "
            f"decides; continue with {processes}, or move {folder.checkpoints} away."
        )
    with closing(bar):
        dpo.train(resume_from_checkpoint=checkpoint)
    save_adapter(dpo, folder.adapter)


def preferences(samples: pd.DataFrame, matrix: ScoreMatrix, lam: Mapping[str, float], pairs: int, seed: int) -> Any:
    """A dataset of `pairs` rows (prompt_ids, chosen_ids, rejected_ids): two samples of a prompt whose lam.r differ.

    The prompts are random. Raises UserError if no prompt has two samples with different lam.r.
    """
    from datasets import Dataset

    tilt_N = matrix.scores @ [lam[name] for name in matrix.values]
    rng = np.random.default_rng(derive_seed(seed, "preferences"))
    by_prompt = [np.asarray(rows) for rows in samples.groupby("prompt_id").indices.values()]
    groups = [rows for rows in by_prompt if np.ptp(tilt_N[rows]) > 0]
    if not groups:
        raise UserError(
            "No pilot prompt has two samples with different lam.r, so there are no preferences; raise "
            "sampling.samples_per_prompt or choose another palette."
        )
    prompts, responses = samples["prompt_token_ids"].tolist(), samples["response_token_ids"].tolist()
    rows: list[dict[str, Any]] = []
    while len(rows) < pairs:
        first, second = rng.choice(groups[rng.integers(len(groups))], 2, replace=False)
        if tilt_N[first] != tilt_N[second]:
            better, worse = (first, second) if tilt_N[first] > tilt_N[second] else (second, first)
            rows.append(
                {
                    "prompt_ids": list(prompts[better]),
                    "chosen_ids": list(responses[better]),
                    "rejected_ids": list(responses[worse]),
                }
            )
    return Dataset.from_list(rows)
