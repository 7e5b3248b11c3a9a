"""On a GPU: PPO at the shapes of OPT-1.3B and Llama-2-7B, and SmolLM2 end to end in bfloat16.

    python -m tests.benchmarks.bench_gpu [--peer FOLDER]

FOLDER, or $PEER, has trl 1.12.0 (pip install --no-deps --target FOLDER trl==1.12.0). Without it TRL's PPO is left out,
so that no network is needed. Without a GPU this is a dry run with the smallest workload and a few responses.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time

import torch

from tests.test_smollm2 import SHORT

RUN = ["trainer.total_episodes=8192", "data.pilot_prompts=1500", "model.dtype=bfloat16"]
TRAINERS = ["mapft", "mapft_static", "rloo"]


def output_of(*words: str) -> str:
    """Of a python module."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline"}
    process = subprocess.run(
        [sys.executable, "-m", *words], env=environment, capture_output=True, text=True, check=False
    )
    return process.stdout if process.returncode == 0 else f"failed: {process.stderr[-1000:]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", default=os.environ.get("PEER"), help="a folder with trl 1.12.0")
    peer = parser.parse_args().peer
    gpu = torch.cuda.is_available()
    trainers = [*TRAINERS, *(["trl_ppo"] if peer else [])] if gpu else ["mapft"]
    options = ["--trainers", ",".join(trainers), *(["--peer", peer] if peer else [])]
    options += [] if gpu else ["--iterations", "2", "--rounds", "1"]
    for work in ("opt_1_3b", "llama2_7b") if gpu else ("small",):
        print(f"{work}\n{output_of('tests.benchmarks.bench_ppo', '--work', work, *options)}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        printed = output_of("mapft", "run", "experiment=smollm2", f"output={folder}", *(RUN if gpu else SHORT))
        print(f"mapft run experiment=smollm2 {' '.join(RUN if gpu else SHORT)}: {time.perf_counter() - begin:.0f} s")
        print(printed[max(0, printed.find("Predicted and realized")) :])


if __name__ == "__main__":
    main()
