"""Trains one model in its own process: `python -m mapft.playground.worker NAME FOLDER SEED SIZE`.

One thread per process makes the result independent of the number of cores, and two small models in two processes
train faster than one after the other on two threads. Prints "step N" as it goes.
"""

import sys
from pathlib import Path
from random import Random

import torch
from transformers import AutoTokenizer

from .grammar import load_grammar
from .policy import new_policy, policy_batches
from .rewards import new_reward, reward_batches
from .sizes import SIZES
from .training import fit


def work(name: str, folder: Path, seed: int, size_name: str) -> None:
    """Train the model `name` into `folder`, which already holds the tokenizer."""
    rng = Random(f"{name} {seed}")
    torch.manual_seed(rng.getrandbits(32))
    torch.set_num_threads(1)
    grammar, tokenizer, size = load_grammar(), AutoTokenizer.from_pretrained(folder), SIZES[size_name]
    if name == "policy":
        model, batches = new_policy(tokenizer, size), policy_batches(grammar, tokenizer, size, rng)
    else:
        model, batches = new_reward(name, tokenizer, size), reward_batches(name, grammar, tokenizer, size, rng)
    fit(model, batches, block_lr=size.block_lr, outer_lr=size.outer_lr, on_step=_say)
    model.save_pretrained(folder)


def _say(step: int) -> None:
    print(f"step {step}", flush=True)


if __name__ == "__main__":
    work(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
