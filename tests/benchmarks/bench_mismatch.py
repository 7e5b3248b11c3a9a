"""How near training comes to p_lam on responses that an engine of another distribution proposes.

    python -m tests.benchmarks.bench_mismatch

The training with replay of bench_convergence on the tabular world. An engine's distribution is the policy's, perturbed
alike for every seed, by so much that the base model is the given KL away from it, in nats per response. Exact
KL(pi||p_lam), mean and range over three seeds. About forty minutes on one core.
"""

import warnings
from functools import partial

import torch

from mapft.config import EngineConfig
from mapft.sampling.engines import RejectionSampler
from tests.benchmarks.bench_convergence import LONG, row
from tests.sampling.engines import TabularEngine

MISMATCHES = (0.0005, 0.013, 0.128)
RESPONSES = (5120, 10_240, 20_480)


def sampler(kl: float) -> RejectionSampler:
    return RejectionSampler(TabularEngine(kl), EngineConfig(max_ratio=8.0))


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    print("| KL(pi||p_lam) after | 5120 | 10 240 | 20 480 responses | seconds |\n|---|---|---|---|---|")
    row("the policy itself", RESPONSES, LONG)
    for kl in MISMATCHES:
        row(f"an engine {kl:g} nats from p0", RESPONSES, LONG, partial(sampler, kl))


if __name__ == "__main__":
    main()
