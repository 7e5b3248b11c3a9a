"""PPO trainers on the tabular world, for several test modules."""

from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import TrainerCallback

from mapft.ppo import PPOConfig, PPOTrainer
from mapft.ppo.replay import Group, ReplayStore
from tests.ppo import tabular

LAM = np.array([1.0, 0.8])
QUIET_CPU = {
    "bf16": False,
    "use_cpu": True,
    "report_to": "none",
    "save_strategy": "no",
    "gradient_checkpointing": False,
    "disable_tqdm": True,
}


def lora() -> LoraConfig:
    """A new object for each trainer: PEFT writes the names of the layers into it."""
    return LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", exclude_modules=["lm_head"])


def make_trainer(
    folder: Path,
    reward_funcs,
    model=None,
    peft_config="lora",
    prompts=tabular.PROMPTS,
    replay=None,
    engine=None,
    **settings,
) -> PPOTrainer:
    """A PPOTrainer on the tabular world: 256 responses per iteration and 4 epochs on them, unless set otherwise."""
    defaults = {
        "kl_coef": 1.0,
        "per_device_train_batch_size": 256,
        "num_ppo_epochs": 4,
        "total_episodes": 256,
        "max_completion_length": tabular.STEPS,
        "learning_rate": 5e-3,
        "lr_scheduler_type": "linear",
        "logging_steps": 4,
        "max_grad_norm": 1.0,
    }
    return PPOTrainer(
        model or tabular.model(),
        reward_funcs,
        args=PPOConfig(output_dir=str(folder), **(QUIET_CPU | defaults | settings)),
        train_dataset=Dataset.from_dict({"prompt": prompts}),
        processing_class=tabular.tokenizer(),
        replay=replay,
        engine=engine,
        peft_config=lora() if peft_config == "lora" else peft_config,
    )


def table_reward() -> tabular.TableReward:
    """R = LAM.r on the tabular world."""
    return tabular.TableReward(tabular.scores() @ LAM)


def stored_responses(groups: int, shift: float = 0.0) -> ReplayStore:
    """So many groups of 8 responses of p0 to each prompt, with R = LAM.r + shift."""
    replay, rng = ReplayStore(10_000, lambda scores_NV: scores_NV[:, 0]), np.random.default_rng(0)
    p0_PY, reward_PY = np.exp(tabular.log_probs(tabular.model())), tabular.scores() @ LAM + shift
    for p, prompt in enumerate(tabular.PROMPTS):
        for row in rng.choice(p0_PY.shape[1], size=(groups, 8), p=p0_PY[p]):
            ids, scores = [list(tabular.responses()[y]) for y in row], [[reward_PY[p, y]] for y in row]
            replay.add([Group(tabular.tokenizer()(prompt)["input_ids"], ids, scores, [])])
    return replay


class Record(TrainerCallback):
    """Keeps everything that the trainer logs."""

    def __init__(self):
        self.logs = []

    def on_log(self, args, state, control, logs, **_):
        self.logs.append(logs)


def move_policy(trainer: PPOTrainer, std: float) -> None:
    """Random weights in the adapter, so that the policy differs from its reference."""
    with torch.no_grad():
        for name, weight in trainer.model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=std)
