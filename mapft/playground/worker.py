"""Trains one model in its own process: `python -m mapft.playground.worker NAME FOLDER SEED SIZE`.

With one thread per process the result does not depend on the number of cores, and two small models in two processes
train faster than one after the other on two threads. Prints "step N" after every step.
"""

import sys
from pathlib import Path
from random import Random

import torch
from transformers import AutoTokenizer

from .base_policy import new_policy, policy_batches
from .grammar import load_grammar
from .optimise import fit
from .reward_models import new_reward, reward_batches
from .sizes import SIZES


def train_model(name: str, folder: Path, seed: int, size_name: str) -> None:
    """Train the model `name` into `folder`, which already holds the tokenizer."""
    rng = Random(f"{name} {seed}")
    torch.manual_seed(rng.getrandbits(32))
    torch.set_num_threads(1)
    grammar, tokenizer, size = load_grammar(), AutoTokenizer.from_pretrained(folder), SIZES[size_name]
    if name == "policy":
        model, batches = new_policy(tokenizer, size), policy_batches(grammar, tokenizer, size, rng)
    else:
        model, batches = new_reward(name, tokenizer, size), reward_batches(name, grammar, tokenizer, size, rng)
    fit(model, batches, block_lr=size.block_lr, outer_lr=size.outer_lr, on_step=_print_step)
    model.save_pretrained(folder)


def _print_step(step: int) -> None:
    print(f"step {step}", flush=True)


if __name__ == "__main__":
    train_model(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
