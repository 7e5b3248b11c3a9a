"""Trains one model in its own process: `python -m mapft.playground.worker NAME FOLDER SEED SIZE`.

One thread per process makes the result independent of the number of cores, and two small models in two processes
train faster than one after the other on two threads. Prints "step N" as it goes.
"""

import sys
from pathlib import Path


def work(name: str, folder: Path, seed: int, size_name: str) -> None:
    """Train the model `name` into `folder`, which already holds the tokenizer."""
    import torch
    from transformers import AutoTokenizer

    from .grammar import load_grammar
    from .policy import train_policy
    from .rewards import train_reward
    from .sizes import SIZES

    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    common = (folder, load_grammar(), tokenizer, SIZES[size_name], seed, _say)
    if name == "policy":
        train_policy(*common)
    else:
        train_reward(name, *common)


def _say(step: int) -> None:
    print(f"step {step}", flush=True)


if __name__ == "__main__":
    work(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
