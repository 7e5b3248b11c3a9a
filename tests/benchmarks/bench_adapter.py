"""Which adapter and learning rate learn a palette from the pilot alone: what they explain on prompts held out of it.

    python -m tests.benchmarks.bench_adapter experiment=smollm2 [overrides ...]

The warm start's regression on the responses to three quarters of the pilot's prompts, then on the others

    1 - E_x Var_k[lam.r - log pi/p0] / E_x Var_k[lam.r],    1 for p_lam, 0 for p0.

Prints the mean and the values of three seeds, which also choose the prompts.
"""

import dataclasses
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import ProgressCallback, TrainerCallback

from mapft.commands.composed import with_config
from mapft.config import AdapterConfig, Config
from mapft.config.run_folder import RunFolder
from mapft.pipeline.run import Run
from mapft.pipeline.sample import sample
from mapft.pipeline.score import score
from mapft.pipeline.solve import solve
from mapft.ppo import PPOTrainer
from mapft.ppo.loss import variance_loss
from mapft.ppo.replay import Group, ReplayStore, flattened
from mapft.sampling.models import load_policy
from mapft.training.adapter import lora_config
from mapft.training.fit import pilot_groups, ppo_config, training_dataset

SEEDS = (0, 1, 2)
ATTENTION, MLP = ".*(q_proj|v_proj)", ".*(gate_proj|up_proj|down_proj)"
UPPER = r".*\.(1[2-9]|2\d)\."  # the upper 18 of SmolLM2's 30 layers
ADAPTERS = {
    "queries and values, rank 4": {"r": 4, "alpha": 8, "target_modules": ATTENTION},
    "all linear, rank 8": {"r": 8, "alpha": 16, "target_modules": "all-linear"},
    "MLP, rank 8": {"r": 8, "alpha": 16, "target_modules": MLP},
    "MLP of the upper 18 layers, rank 8": {"r": 8, "alpha": 16, "target_modules": UPPER + MLP},
    "MLP of the upper 18 layers, rank 32": {"r": 32, "alpha": 64, "target_modules": UPPER + MLP},
}
RATES = (5e-4, 1e-3, 2e-3)


class StopAt(TrainerCallback):
    """Ends a training after so many optimizer steps."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """At the step."""
        control.should_training_stop = state.global_step >= self.step


def explained(config: Config, run: Run, train: Sequence[Group], held: Sequence[Group]) -> float:
    """The share on the held-out groups after the warm start on the others."""
    lam = torch.tensor([run.solution.lam[name] for name in run.matrix.values], dtype=torch.float64)
    with tempfile.TemporaryDirectory() as folder:
        policy, tokenizer = load_policy(config.model)
        args = ppo_config(config, RunFolder(Path(folder)))
        replay = ReplayStore(args.replay_capacity, lambda scores_NV: scores_NV @ lam, run.matrix.values, train)
        trainer = PPOTrainer(
            policy,
            [lambda prompts, **_: [0.0] * len(prompts)],
            args=args,
            train_dataset=training_dataset(run.prompts.training),
            replay=replay,
            processing_class=tokenizer,
            peft_config=lora_config(config),
        )
        trainer.remove_callback(ProgressCallback)
        trainer.add_callback(StopAt(trainer.begun.warm_start * args.steps_per_iteration))
        trainer.train()
        trainer.replay = ReplayStore(args.replay_capacity, replay.price, run.matrix.values, held)
        trainer.prepare_replay()
        return share(trainer)


def share(trainer: PPOTrainer) -> float:
    """1 - E_x Var_k[lam.r - log pi/p0] / E_x Var_k[lam.r] of the stored groups."""
    groups, rows = trainer.replay.groups, trainer.args.local_rollout_forward_batch_size
    prompt_ids, completion_ids = flattened(groups)
    logp: list[float] = []
    for first in range(0, len(prompt_ids), rows):
        batch = trainer.batch_of(prompt_ids[first : first + rows], completion_ids[first : first + rows])
        logp_BT, _ = trainer.log_probs(trainer.model, batch, features=False)
        logp += (logp_BT * batch["mask"]).sum(dim=1).tolist()
    ref_logp = torch.tensor([number for group in groups for number in group.ref_logp])
    scores_NV = torch.tensor([numbers for group in groups for numbers in group.scores], dtype=torch.float64)
    reward = trainer.replay.price(scores_NV).float()
    number = torch.arange(len(groups)).repeat_interleave(torch.tensor([len(group) for group in groups]))
    remaining, all_of_it = (
        variance_loss(log_ratio, reward, number, 1.0) for log_ratio in (torch.tensor(logp) - ref_logp, 0 * ref_logp)
    )
    return float(1 - remaining / all_of_it)


def measure(config: Config) -> None:
    """The table of all adapters and rates."""
    run = Run(config)
    with run.lock():
        for stage in (sample, score, solve):
            stage(run)
    scored = run.samples.assign(**{name: run.matrix.column(name) for name in run.matrix.values})
    groups = pilot_groups(scored, run.matrix.values)
    print(f"{sum(map(len, groups))} responses, {config.trainer.warm_start_passes:g} passes")
    print("| adapter | rate | explained | seeds | seconds |\n|---|---|---|---|---|")
    for name, adapter in ADAPTERS.items():
        for rate in RATES:
            shares, begin = [], time.perf_counter()
            for seed in SEEDS:
                order = np.random.default_rng(seed).permutation(len(groups))
                held, train = np.split(order, [len(groups) // 4])
                trainer = dataclasses.replace(
                    config.trainer,
                    learning_rate=rate,
                    warm_start_learning_rate=None,
                    num_mini_batches=1,
                    total_episodes=1,
                    num_ppo_epochs=1,
                )
                other = dataclasses.replace(config, adapter=AdapterConfig(**adapter), trainer=trainer, seed=seed)
                shares.append(explained(other, run, [groups[k] for k in train], [groups[k] for k in held]))
            seconds = (time.perf_counter() - begin) / len(SEEDS)
            each = " ".join(f"{number:.3f}" for number in shares)
            print(f"| {name} | {rate:g} | {np.mean(shares):.3f} | {each} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    with_config(sys.argv[1:], measure)
