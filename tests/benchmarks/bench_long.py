"""Memory, open files and disk of a long training: 10,000 PPO iterations of a tiny model, with replay and checkpoints.

    python -m tests.benchmarks.bench_long

A checkpoint every 250 iterations, of which two are kept; the replay store is full after the first tenth.
"""

import contextlib
import gc
import io
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import TrainerCallback

from tests.benchmarks import ratio
from tests.ppo.trainers import make_trainer, table_reward

ITERATIONS = 10_000
BATCH = 16
SETTINGS = {
    "per_device_train_batch_size": BATCH,
    "num_generations": 4,
    "num_ppo_epochs": 1,
    "total_episodes": ITERATIONS * BATCH,
    "replay_batch": BATCH,
    "replay_capacity": ITERATIONS * BATCH // 10,
    "logging_steps": 10,
    "save_strategy": "steps",
    "save_steps": 250,
    "save_total_limit": 2,
}


class Usage(TrainerCallback):
    """A line for every tenth of the training: seconds, MB of memory, open files, MB on disk."""

    def __init__(self, folder: Path, out: Any) -> None:
        self.folder, self.out, self.begun, self.lines = folder, out, time.perf_counter(), []

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Measure."""
        if state.global_step % (ITERATIONS // 10) == 0:
            gc.collect()
            process = psutil.Process()
            disk = sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file()) / 1e6
            self.lines.append((process.memory_info().rss / 1e6, process.num_fds(), disk))
            print(
                f"{state.global_step:10d} {time.perf_counter() - self.begun:8.0f} {self.lines[-1][0]:10.1f} "
                f"{self.lines[-1][1]:11d} {disk:8.2f}",
                file=self.out,
                flush=True,
            )


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        print("iterations  seconds  memory MB  open files  disk MB", flush=True)
        usage = Usage(Path(folder), sys.stdout)
        with contextlib.redirect_stdout(io.StringIO()):
            trainer = make_trainer(Path(folder), [table_reward()], **SETTINGS)
            trainer.add_callback(usage)
            trainer.train()
    half, end = usage.lines[4], usage.lines[-1]
    for name, before, after in zip(("memory", "open files", "disk"), half, end, strict=True):
        ratio(f"{name} after {ITERATIONS} iterations / after {ITERATIONS // 2}", after / before)


if __name__ == "__main__":
    main()
