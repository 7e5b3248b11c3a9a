"""Scoring 2000 responses under the playground's reward models: length-sorted batches against one text at a time.

    python -m tests.benchmarks.bench_scoring [--texts 2000] [--rounds 3]

The published code scores one text at a time. Both variants use the same loaded models and two threads, alternately; the
median over the rounds is printed, and the largest difference between their scores.
"""

import argparse
import statistics
import time
from random import Random

import numpy as np
import torch

from mapft.config import DataConfig
from mapft.rewards import parse
from mapft.sampling.prompts import load_prompts
from tests.benchmarks import ratio

VALUES = ("humor", "helpful", "harmless")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(2)
    rng = Random(0)
    pool = [row.prompt for row in load_prompts(DataConfig(path="playground:prompts"))]
    prompts = [str(rng.choice(pool)) for _ in range(options.texts)]
    words = " ".join(map(str, pool)).split()
    responses = [" ".join(rng.choices(words, k=rng.randint(3, 32))) for _ in prompts]
    print(f"{'value':10} {'batched s':>10} {'one by one s':>13} {'ratio':>7} {'largest difference':>19}")
    for name in VALUES:
        scorer = parse({name: {"kind": "classifier", "path": f"playground:{name}"}})[name].load(name)
        seconds: dict[str, list[float]] = {"batched": [], "single": []}
        for _ in range(options.rounds):
            begin = time.perf_counter()
            batched_scores = scorer.score(prompts, responses)
            seconds["batched"].append(time.perf_counter() - begin)
            begin = time.perf_counter()
            single_scores = [scorer.score([p], [r])[0] for p, r in zip(prompts, responses, strict=True)]
            seconds["single"].append(time.perf_counter() - begin)
        batched, single = (statistics.median(times) for times in seconds.values())
        difference = np.abs(batched_scores - single_scores).max()
        print(f"{name:10} {batched:10.2f} {single:13.2f} {single / batched:7.1f} {difference:19.1e}", flush=True)
        ratio(f"scoring {name} one by one / in batches", single / batched)


if __name__ == "__main__":
    main()
