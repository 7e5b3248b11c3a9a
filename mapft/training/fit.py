"""One fit: PPO from a reference policy to the policy with given multipliers."""

import dataclasses
import json
import warnings
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from datasets import Dataset
from transformers import ProgressCallback

from mapft.config import Config
from mapft.config.run_folder import RunFolder
from mapft.ppo import PPOConfig, PPOTrainer
from mapft.ppo.checkpoint import newest_complete
from mapft.ppo.generation import PROMPT_TOKENS
from mapft.ppo.replay import Group, ReplayStore
from mapft.rewards.loader import RewardModels
from mapft.sampling.engines import make_engine
from mapft.sampling.models import load_policy
from mapft.sampling.prompts import PromptRow
from mapft.tracking.callback import Tracking
from mapft.tracking.lines import JsonLines, LevelBar
from mapft.training.adapter import lora_config, save_adapter
from mapft.training.refinement import CHECKPOINT_FILE, RefinedLambda, read_history
from mapft.training.reward import COLUMNS, PaletteReward


@dataclass(frozen=True)
class Objective:
    """What a fit trains towards: p_lam. Multipliers in nats per raw unit; the others in raw units.

    lam names the values that are scored; reference_lam has the multipliers of the reference policy. base, sd: mean and
    standard deviation of the base scores. kl: the least KL that has the targets in nats, where it is known.
    """

    lam: Mapping[str, float]
    reference_lam: Mapping[str, float]
    targets: Mapping[str, float]
    base: Mapping[str, float]
    sd: Mapping[str, float]
    kl: float | None = None


def fit(
    config: Config,
    models: RewardModels,
    objective: Objective,
    prompts: list[PromptRow],
    stored: Sequence[Group],
    folder: RunFolder,
    run_name: str | None = None,
) -> Mapping[str, float]:
    """Train folder.adapter unless it exists; returns the multipliers at the end of the training.

    stored: scored responses with which replay begins, see `pilot_groups`. folder: of the run, or of one visit of the
    run `run_name`; checkpoints, logs.jsonl, refinement.json and replay.pt are written there too. The reference is the
    model with its adapter (model.adapter, if any) frozen; training starts from a copy. If lam equals reference_lam,
    nothing is trained and the saved adapter leaves the policy unchanged.
    """
    if folder.adapter.exists():
        history = read_history(folder.refinement)
        return history[-1]["lam"] if history else objective.lam
    policy, tokenizer = load_policy(config.model)
    args = ppo_config(config, folder)
    lam = RefinedLambda(
        objective.lam,
        objective.reference_lam,
        objective.targets,
        objective.sd,
        config.refine,
        folder.refinement,
        args.steps_per_iteration,
    )
    checkpoint = newest_complete(folder.checkpoints, last_file=CHECKPOINT_FILE)
    if checkpoint:
        lam.load(Path(checkpoint))
    job, name = (folder.path.name, run_name) if run_name else (config.mode.name, folder.path.name)
    least_kl = {} if objective.kl is None else {"objective/kl_least": objective.kl}

    def extra_metrics() -> dict[str, float]:
        return {**lam.metrics, **least_kl}

    tracking = Tracking(config, folder, job, name, extra_metrics, args.steps_per_iteration)
    kl_coef = config.trainer.kl_coef
    reward = PaletteReward(models, lam.lam, kl_coef, lam.observe, objective.reference_lam, objective.base)
    replay = ReplayStore(args.replay_capacity, reward.price, list(objective.lam), stored)
    trainer = PPOTrainer(
        policy,
        [reward],
        args=args,
        train_dataset=training_dataset(prompts),
        replay=replay,
        processing_class=tokenizer,
        peft_config=None if config.model.adapter else lora_config(config),
        engine=make_engine(config),
        callbacks=[JsonLines(folder.logs, extra_metrics), lam, tracking],
    )
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(bar := LevelBar(objective.targets, objective.sd))
    tracking.completions = lambda: trainer.completions
    with tracking, closing(bar):
        if objective.lam != objective.reference_lam:
            trainer.train(resume_from_checkpoint=checkpoint)
            if args.replay_batch:
                trainer.replay.save(folder.replay, is_main=trainer.accelerator.is_main_process)
        save_adapter(trainer, folder.adapter)
    return lam.lam


def training_dataset(rows: Sequence[PromptRow]) -> Dataset:
    """The text and tokens of rendered prompts and, where scores read columns, those of each row as one JSON text.

    `PaletteReward` reads the JSON. As columns of their own they would change in Arrow, which has one type per column,
    and in `datasets.Json`, which reads the text "42" as a number.
    """
    dataset: dict[str, list[Any]] = {
        "prompt": [row.prompt for row in rows],
        PROMPT_TOKENS: [row.ids for row in rows],
    }
    if any(row.columns for row in rows):
        dataset[COLUMNS] = [json.dumps(row.columns) for row in rows]
    return Dataset.from_dict(dataset)


def pilot_groups(samples: pd.DataFrame, values: Sequence[str]) -> list[Group]:
    """Samples of the reference policy, with token ids and scores, by prompt; a prompt with one sample is left out."""
    groups = []
    for _, rows in samples.groupby("prompt_id"):
        if len(rows) > 1:
            responses = [ids.tolist() for ids in rows["response_token_ids"]]
            scores = rows[list(values)].to_numpy(float).tolist()
            groups.append(Group(rows["prompt_token_ids"].iloc[0].tolist(), responses, scores, []))
    return groups


def ppo_config(config: Config, folder: RunFolder) -> PPOConfig:
    """The run's settings as PPOConfig; bf16 autocast on a GPU where the base is bf16.

    An optimizer step is split into micro-batches of trainer.micro_batch_size.
    """
    sampling, trainer, on_gpu = config.sampling, config.trainer, torch.cuda.is_available()
    settings = dataclasses.asdict(trainer)
    micro_batch = settings.pop("micro_batch_size") or trainer.per_device_train_batch_size
    settings["per_device_train_batch_size"] = micro_batch
    settings["gradient_accumulation_steps"] = trainer.rows_per_step // micro_batch
    settings["gradient_checkpointing"] = bool(trainer.gradient_checkpointing)
    if trainer.local_rollout_forward_batch_size is None:
        del settings["local_rollout_forward_batch_size"]  # PPOConfig has a default
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`gradient_checkpointing", FutureWarning)  # transformers about TRL's names
        return PPOConfig(
            output_dir=str(folder.checkpoints),
            max_completion_length=sampling.max_new_tokens,
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            generation_rows=sampling.micro_batch_size,
            seed=config.seed,
            bf16=on_gpu and config.model.dtype.value in ("auto", "bfloat16"),
            use_cpu=not on_gpu,
            save_strategy="steps",
            report_to=[],  # mapft.tracking reports
            **settings,
        )
