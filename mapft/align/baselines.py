"""What MAP is compared with, on the same base, adapter, sampling and trainer.

`scalarized`: PPO on a mixture chosen beforehand; one value alone is plain RLHF, random weights are MORLHF.
`soup`: the average of such adapters (Rame et al., 2023). `published`: the recipe that came with the paper, taken
literally. `dpo`: preferences that the palette's own lam.r ranks (Rafailov et al., 2023). None refines lambda.

Legend: N pilot samples.
"""

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from accelerate import PartialState
from datasets import Dataset
from transformers import ProgressCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import DPOConfig, DPOTrainer

from mapft.align.fit import ADAPTER, LOGS, Aim, fit, lora_config, save_adapter
from mapft.config import Config, DPOMode, ModelConfig, PublishedMode, ScalarizedMode
from mapft.errors import UserError
from mapft.palette import DualSolution, Palette, RewardMatrix, Status, at_kl, solve_dual
from mapft.ppo.checkpoint import newest_whole
from mapft.rewards import Score
from mapft.rewards.loader import RewardModels
from mapft.sampling.models import load_policy
from mapft.sampling.prompts import Prompt
from mapft.sampling.store import TEMPORARY, write_text
from mapft.seeding import derive_seed
from mapft.tracking.lines import JsonLines

WHOLE = "whole"  # in a checkpoint of DPO's


def scalarized(
    config: Config,
    scores: Mapping[str, Score],
    solution: DualSolution,
    matrix: RewardMatrix,
    prompts: list[Prompt],
    run: Path,
) -> dict[str, float]:
    """PPO towards p_lam with lam = t * weights / sd, t chosen so that it lies as many nats from p0 as the palette's."""
    assert isinstance(config.mode, ScalarizedMode)
    lam = at_kl(matrix, config.mode.weights, config.mode.kl or solution.kl, estimator=solution.estimator)
    return _fixed(config, scores, lam, solution, matrix, prompts, run)


def published(
    config: Config,
    scores: Mapping[str, Score],
    solution: DualSolution,
    matrix: RewardMatrix,
    prompts: list[Prompt],
    run: Path,
) -> dict[str, float]:
    """Reward lam.r, lam of the pooled dual, at KL weight kl_coef: its optimum, p_{lam / kl_coef}, lies beyond p_lam."""
    assert isinstance(config.mode, PublishedMode)
    pooled = solve_dual(matrix, Palette(solution.targets), estimator="pooled")
    if pooled.status is not Status.optimal:
        raise UserError(f"The published recipe has no lambda for this palette: {pooled.status.sentence}")
    lam, weight = pooled.lam, config.mode.kl_coef
    config = replace(config, trainer=replace(config.trainer, kl_coef=weight))
    return _fixed(
        config, scores, {name: number / weight for name, number in lam.items()}, solution, matrix, prompts, run
    )


def _fixed(
    config: Config,
    scores: Mapping[str, Score],
    lam: Mapping[str, float],
    solution: DualSolution,
    matrix: RewardMatrix,
    prompts: list[Prompt],
    run: Path,
) -> dict[str, float]:
    none = dict.fromkeys(scores, 0.0)
    aim = Aim(none | dict(lam), none, solution.targets, matrix.sd)
    config = replace(config, refine=replace(config.refine, every=None))
    return dict(fit(config, RewardModels(scores), aim, prompts, run))


def average(model: ModelConfig, adapters: Mapping[str, Path], weights: Mapping[str, float], run: Path) -> None:
    """run/adapter = sum_i w_i delta_i, w summing to 1, delta_i the change that adapter i makes to the base's weights.

    Exactly so: low-rank factors are put side by side, so the rank is the sum of the ranks.
    """
    from peft import PeftConfig, PeftModel

    if not PartialState().is_main_process or (run / ADAPTER).exists():
        return
    if any(PeftConfig.from_pretrained(str(adapter)).use_dora for adapter in adapters.values()):
        raise UserError(
            "adapter.use_dora=true: the average of such adapters is none of its kind; make soup without it."
        )
    policy: Any = None
    base, _ = load_policy(replace(model, adapter=None))
    for name, adapter in adapters.items():
        if policy is None:
            policy = PeftModel.from_pretrained(base, str(adapter), name)
        else:
            policy.load_adapter(str(adapter), name)
    total = sum(weights[name] for name in adapters)
    shares = [weights[name] / total for name in adapters]
    policy.add_weighted_adapter(list(adapters), shares, "soup", combination_type="cat")
    policy.peft_config["soup"].use_rslora = False  # its scale is in the factors now
    temporary = run / f".{ADAPTER}{TEMPORARY}"
    policy.save_pretrained(str(temporary), selected_adapters=["soup"])
    (temporary / "soup").rename(run / ADAPTER)
    shutil.rmtree(temporary)


def dpo(
    config: Config,
    pilot: list[Prompt],
    samples: pd.DataFrame,
    matrix: RewardMatrix,
    lam: Mapping[str, float],
    run: Path,
) -> None:
    """DPO on as many responses as PPO would score: pairs of pilot samples, the one with the higher lam.r preferred."""
    assert isinstance(config.mode, DPOMode)
    if (run / ADAPTER).exists():
        return
    policy, tokenizer = load_policy(config.model)
    trainer, gpu = config.trainer, torch.cuda.is_available()
    args = DPOConfig(
        output_dir=str(run / "checkpoints"),
        beta=config.mode.beta,
        learning_rate=config.mode.learning_rate or trainer.learning_rate,
        per_device_train_batch_size=trainer.per_device_train_batch_size // 2 or 1,
        gradient_accumulation_steps=trainer.gradient_accumulation_steps,
        max_grad_norm=trainer.max_grad_norm,
        lr_scheduler_type=trainer.lr_scheduler_type,
        gradient_checkpointing=trainer.gradient_checkpointing,
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
    rows = preferences(pilot, samples, matrix, lam, config.trainer.total_episodes // 2, config.seed)
    learner = DPOTrainer(
        policy,
        args=args,
        train_dataset=rows,
        processing_class=tokenizer,
        peft_config=None if config.model.adapter else lora_config(config),
        callbacks=[JsonLines(run / LOGS, {}), Whole()],
    )
    learner.remove_callback(ProgressCallback)
    learner.train(resume_from_checkpoint=newest_whole(run / "checkpoints", last_file=WHOLE))
    save_adapter(learner, run / ADAPTER)


class Whole(TrainerCallback):
    """Marks a checkpoint that is written; transformers writes its own last file in place, where a kill tears it."""

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """An empty file beside the others."""
        if state.is_world_process_zero:
            write_text(Path(args.output_dir) / f"checkpoint-{state.global_step}" / WHOLE, "")


def preferences(
    pilot: list[Prompt], samples: pd.DataFrame, matrix: RewardMatrix, lam: Mapping[str, float], pairs: int, seed: int
) -> Dataset:
    """`pairs` rows of prompt, chosen, rejected: two samples of one prompt, drawn anew for every row, without ties.

    Of samples that ended by themselves, where there are enough: TRL ends every response of a preference with EOS.
    """
    tilt_N = matrix.scores @ [lam[name] for name in matrix.values]
    rng = np.random.default_rng(derive_seed(seed, "preferences"))
    ended_N, prompts_rows = (
        samples["finished"].to_numpy(bool),
        [np.asarray(rows) for rows in samples.groupby("prompt_id").indices.values()],
    )
    groups = _telling((rows[ended_N[rows]] for rows in prompts_rows), tilt_N) or _telling(prompts_rows, tilt_N)
    if not groups:
        raise UserError("No prompt of the pilot has two samples that lam.r tells apart, so nothing can be preferred.")
    prompts, answers = [pilot[number] for number in samples["prompt_id"]], samples["response"].tolist()
    rows: list[dict[str, Any]] = []
    while len(rows) < pairs:
        first, second = rng.choice(groups[rng.integers(len(groups))], 2, replace=False)
        if tilt_N[first] != tilt_N[second]:
            better, worse = (first, second) if tilt_N[first] > tilt_N[second] else (second, first)
            rows.append({"prompt": prompts[better], "chosen": answers[better], "rejected": answers[worse]})
    if isinstance(pilot[0], list):
        rows = [row | {key: _message(row[key]) for key in ("chosen", "rejected")} for row in rows]
    return Dataset.from_list(rows)


def _telling(groups: Iterable[np.ndarray], tilt_N: np.ndarray) -> list[np.ndarray]:
    """The groups of rows in which lam.r tells two apart."""
    return [rows for rows in groups if len(rows) and np.ptp(tilt_N[rows]) > 0]


def _message(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]
