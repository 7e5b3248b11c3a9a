"""All values at once: PPO on lam.r against the base policy."""

import dataclasses
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import ProgressCallback

from mapft.align.refinement import REFINEMENTS, RefinedLambda
from mapft.align.reward import PaletteReward
from mapft.config import Config, Tracker
from mapft.palette import DualSolution
from mapft.ppo import PPOConfig, PPOTrainer
from mapft.ppo.checkpoint import newest_whole
from mapft.rewards import Score
from mapft.sampling.models import load_policy
from mapft.sampling.prompts import Prompt
from mapft.tracking import JsonLines, LevelBar


def train(
    config: Config,
    scores: dict[str, Score],
    solution: DualSolution,
    sd: Mapping[str, float],
    prompts: list[Prompt],
    run: Path,
    adapter: Path,
) -> None:
    """Move the policy to p_lam and save its adapter; checkpoints, logs.jsonl and refinement.json lie in the run folder.

    Every value is scored and logged, so that a slack one is seen sinking. When every multiplier is 0 the base policy
    keeps the palette already, and the adapter that is saved changes nothing. sd: of the base scores. Where p0 itself
    has an adapter (model.adapter), that one is trained on, and a frozen copy of it is the reference.
    """
    policy, tokenizer = load_policy(config.model)
    scorers = {name: score.load(name) for name, score in scores.items()}
    args = ppo_config(config, run)
    lam = RefinedLambda(solution, sd, config.refine, run / REFINEMENTS, args.steps_per_iteration)
    checkpoint = newest_whole(run / "checkpoints", last_file=REFINEMENTS)
    if checkpoint:
        lam.load(Path(checkpoint))
    trainer = PPOTrainer(
        policy,
        [PaletteReward(scorers, lam.lam, config.trainer.kl_coef, lam.observe)],
        args=args,
        train_dataset=Dataset.from_dict({"prompt": prompts}),
        processing_class=tokenizer,
        peft_config=None if config.model.adapter else lora_config(config),
        callbacks=[JsonLines(run / "logs.jsonl", solution.targets), lam],
    )
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(LevelBar(solution.targets, sd))
    if any(solution.lam.values()):
        trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model(str(adapter))
    if trainer.accelerator.is_main_process:
        shutil.rmtree(adapter / "ref", ignore_errors=True)  # the reference, which p0's own adapter already is


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


def ppo_config(config: Config, run: Path) -> PPOConfig:
    """The run's settings as PPO's; bf16 autocast only where the base itself is bf16."""
    sampling, on_gpu = config.sampling, torch.cuda.is_available()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`gradient_checkpointing", FutureWarning)  # transformers about TRL's names
        return PPOConfig(
            output_dir=str(run / "checkpoints"),
            max_completion_length=sampling.max_new_tokens,
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            seed=config.seed,
            bf16=on_gpu and config.model.dtype.value in ("auto", "bfloat16"),
            use_cpu=not on_gpu,
            save_strategy="steps",
            report_to=[] if config.tracking.report_to is Tracker.none else [config.tracking.report_to.value],
            project=config.tracking.project,
            run_name=run.name,
            **dataclasses.asdict(config.trainer),
        )
