"""How fast training reaches p_lam: exact KL(pi||p_lam) on the tabular world, with and without replay.

    python -m tests.benchmarks.bench_convergence

Prints the mean and range over three seeds after so many responses. Every training has its own schedule of the learning
rate, which ends with the last number of responses.
"""

import contextlib
import io
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from mapft.sampling.engines import RejectionSampler
from tests.ppo import tabular
from tests.ppo.trainers import LAM, make_trainer

SEEDS = (0, 1, 2)
PLAIN = {"num_ppo_epochs": 4, "learning_rate": 5e-3}
GROUPS = PLAIN | {"num_generations": 8, "per_device_train_batch_size": 64, "num_mini_batches": 4}
UNWHITENED = GROUPS | {"whiten_advantages": False}
TRAININGS: dict[str, dict[str, Any]] = {
    "PPO": PLAIN,
    "PPO, 8 responses per prompt, 4 mini-batches": GROUPS,
    "the same, advantages not whitened": UNWHITENED,
    "with replay of 256": GROUPS | {"replay_batch": 256},
    "with replay of 256, not whitened": UNWHITENED | {"replay_batch": 256},
    "with replay of 256, not whitened, weight 4": UNWHITENED | {"replay_batch": 256, "replay_coef": 4.0},
}
LONG = UNWHITENED | {"replay_batch": 256, "replay_coef": 4.0}


class ExactKL(TrainerCallback):
    """KL(pi||p_lam) after the given numbers of responses."""

    def __init__(self, responses: Sequence[int], steps_per_iteration: int, batch: int) -> None:
        self.log_p_lam = tabular.tilted(tabular.log_probs(tabular.model()), tabular.scores() @ LAM)
        self.steps = {n // batch * steps_per_iteration: n for n in responses}
        self.kl: dict[int, float] = {}

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Enumerate all responses."""
        if state.global_step in self.steps:
            self.kl[self.steps[state.global_step]] = tabular.kl(tabular.log_probs(model.eval()), self.log_p_lam)
            model.train()


def train(
    responses: Sequence[int], seed: int, settings: dict[str, Any], engine: RejectionSampler | None
) -> tuple[dict[int, float], float]:
    """KL after each number of responses, and the seconds of the training."""
    reward = tabular.TableReward(tabular.scores() @ LAM)
    quiet = {"logging_steps": 10_000, "total_episodes": max(responses), "seed": seed}
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        trainer = make_trainer(Path(folder), [reward], engine=engine, **settings | quiet)
        exact = ExactKL(responses, trainer.args.steps_per_iteration, trainer.args.generation_batch_size)
        trainer.add_callback(exact)
        begin = time.perf_counter()
        trainer.train()
    return exact.kl, time.perf_counter() - begin


def row(
    name: str,
    responses: Sequence[int],
    settings: dict[str, Any],
    make_engine: Callable[[], RejectionSampler | None] = lambda: None,
) -> None:
    """Print mean and range over the seeds. make_engine: what generates the responses of a training."""
    results = [train(responses, seed, settings, make_engine()) for seed in SEEDS]
    cells = []
    for n in responses:
        kls = [kl[n] for kl, _ in results]
        cells.append(f"{sum(kls) / len(kls):.4f} ({min(kls):.4f}-{max(kls):.4f})")
    seconds = sum(s for _, s in results) / len(results)
    print(f"| {name} | " + " | ".join(cells) + f" | {seconds:.0f} |", flush=True)


def main() -> None:
    """All trainings with 10 240 responses, then the last one with 20 480."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    print("| KL(pi||p_lam) after | 2560 | 5120 | 10 240 responses | seconds |\n|---|---|---|---|---|")
    for name, settings in TRAININGS.items():
        row(name, (2560, 5120, 10_240), settings)
    print("\n| KL(pi||p_lam) after | 5120 | 10 240 | 20 480 responses | seconds |\n|---|---|---|---|---|")
    row("PPO", (5120, 10_240, 20_480), PLAIN)
    row("with replay of 256, not whitened, weight 4", (5120, 10_240, 20_480), LONG)


if __name__ == "__main__":
    main()
