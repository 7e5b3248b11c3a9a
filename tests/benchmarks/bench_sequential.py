"""How many responses a visit of sequential mode needs: exact KL(pi||p_lam) on the tabular world after every visit.

    python -m tests.benchmarks.bench_sequential [seed ...]

Two values whose true multipliers are .3 and 1.0. Alone, the first gets a multiplier of about 1, which must fall again
once the second has its own. Visits learn with replay of the scored responses of their value.
"""

import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch

from mapft.config.run_folder import RunFolder
from mapft.training.modes.sequential import read_visits
from tests.benchmarks.bench_convergence import LONG, SEEDS
from tests.ppo import tabular
from tests.training.modes.test_sequential import QUIET, World

RESPONSES, ROUNDS = 7936, 3  # of a visit, whole iterations
REFINE = {"every": 8, "start": 0.25}


def visits(seed: int) -> None:
    """Print the multipliers and the KL after every visit."""
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        world, run = World(Path(folder), {"first": 0.3, "second": 1.0}), Path(folder) / "run"
        world.cycle(run, LONG | QUIET, REFINE, seed=seed, rounds=ROUNDS, visit_episodes=RESPONSES).train()
        lam: dict[str, float] = {}
        for visit in read_visits(RunFolder(run)):
            lam[visit.value] = visit.lam
            if not visit.skipped:
                kl = tabular.kl(world.log_probs(run / visit.folder / "adapter"), world.log_p_lam)
                shown = ", ".join(f"{name} {number:.2f}" for name, number in lam.items())
                print(f"seed {seed}: {RESPONSES} responses on {visit.value}: KL {kl:.4f}, lambda {shown}", flush=True)
    print(f"seed {seed}: {time.perf_counter() - begin:.0f} s", flush=True)


def main() -> None:
    """All seeds, or those of the command line."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for seed in map(int, sys.argv[1:] or SEEDS):
        visits(seed)


if __name__ == "__main__":
    main()
