"""One fit: PPO from a reference policy to the policy that has the multipliers asked for."""

import dataclasses
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import ProgressCallback

from mapft.align.refinement import REFINEMENTS, RefinedLambda, read_history
from mapft.align.reward import PaletteReward
from mapft.config import Config
from mapft.errors import UserError
from mapft.ppo import PPOConfig, PPOTrainer
from mapft.ppo.checkpoint import newest_whole
from mapft.rewards.loader import RewardModels
from mapft.sampling.models import load_policy
from mapft.sampling.prompts import Prompt
from mapft.sampling.store import TEMPORARY
from mapft.tracking.lines import JsonLines, LevelBar
from mapft.tracking.trackers import Tracking

ADAPTER = "adapter"  # in the folder of a fit
LOGS = "logs.jsonl"


@dataclass(frozen=True)
class Aim:
    """What a fit is to reach. Multipliers in nats per raw unit, levels and sd of the base scores in raw units.

    lam names the values that are scored; reference_lam holds the multipliers that the reference has of them already.
    """

    lam: Mapping[str, float]
    reference_lam: Mapping[str, float]
    targets: Mapping[str, float]
    sd: Mapping[str, float]


def fit(
    config: Config, models: RewardModels, aim: Aim, prompts: list[Prompt], folder: Path, run: Path | None = None
) -> Mapping[str, float]:
    """Train and save folder/adapter, or find it there; returns the multipliers that the training ended with.

    run: the folder of the run that this fit is a stage of, where it is one.

    The reference is p0, or, where p0 has an adapter (model.adapter), a frozen copy of that one on the same base; a
    copy of it is trained on. Checkpoints, logs.jsonl and refinement.json lie in the folder too. Where lam is the
    reference's already, the adapter that is saved changes nothing.
    """
    adapter = folder / ADAPTER
    if adapter.exists():
        history = read_history(folder / REFINEMENTS)
        return history[-1]["lam"] if history else aim.lam
    policy, tokenizer = load_policy(config.model)
    args = ppo_config(config, folder)
    lam = RefinedLambda(aim.lam, aim.targets, aim.sd, config.refine, folder / REFINEMENTS, args.steps_per_iteration)
    checkpoint = newest_whole(folder / "checkpoints", last_file=REFINEMENTS)
    if checkpoint:
        lam.load(Path(checkpoint))
    job, name = (folder.name, run.name) if run else (config.mode.name, folder.name)
    tracking = Tracking(config, folder, job, name, aim.targets, args)
    try:
        trainer = PPOTrainer(
            policy,
            [PaletteReward(models, lam.lam, config.trainer.kl_coef, lam.observe, aim.reference_lam)],
            args=args,
            train_dataset=Dataset.from_dict({"prompt": prompts}),
            processing_class=tokenizer,
            peft_config=None if config.model.adapter else lora_config(config),
            callbacks=[JsonLines(folder / LOGS, aim.targets), lam, tracking],
        )
    except ValueError as error:
        if "not found in the base model" not in str(error):
            raise
        raise UserError(
            f"adapter.target_modules={config.adapter.target_modules} names no layer of {config.model.path}; write "
            "all-linear, or a regular expression over its module names."
        ) from error
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(LevelBar(aim.targets, aim.sd))
    tracking.completions = lambda: trainer.completions
    with tracking:
        if aim.lam != aim.reference_lam:
            trainer.train(resume_from_checkpoint=checkpoint)
        save_adapter(trainer, adapter)
    return lam.lam


def save_adapter(trainer: PPOTrainer, adapter: Path) -> None:
    """The trained adapter alone, whole or not at all."""
    temporary = adapter.with_name(f".{adapter.name}{TEMPORARY}")
    trainer.save_model(str(temporary))
    if trainer.accelerator.is_main_process:
        shutil.rmtree(temporary / "ref", ignore_errors=True)  # the reference's, which is where it was
        temporary.rename(adapter)
    trainer.accelerator.wait_for_everyone()


def lora_config(config: Config) -> LoraConfig:
    """LoRA without dropout (two passes of one policy must agree) and without the LM head, whose weights PPO reads."""
    output = ["lm_head"] if config.adapter.target_modules == "all-linear" else None
    return LoraConfig(
        r=config.adapter.r,
        lora_alpha=config.adapter.alpha,
        lora_dropout=0.0,
        target_modules=config.adapter.target_modules,
        use_rslora=config.adapter.use_rslora,
        use_dora=config.adapter.use_dora,
        exclude_modules=output,
        task_type="CAUSAL_LM",
    )


def ppo_config(config: Config, folder: Path) -> PPOConfig:
    """The run's settings as PPO's; bf16 autocast only where the base itself is bf16."""
    sampling, on_gpu = config.sampling, torch.cuda.is_available()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`gradient_checkpointing", FutureWarning)  # transformers about TRL's names
        return PPOConfig(
            output_dir=str(folder / "checkpoints"),
            max_completion_length=sampling.max_new_tokens,
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            seed=config.seed,
            bf16=on_gpu and config.model.dtype.value in ("auto", "bfloat16"),
            use_cpu=not on_gpu,
            save_strategy="steps",
            report_to=[],  # mapft.tracking reports
            **dataclasses.asdict(config.trainer),
        )
