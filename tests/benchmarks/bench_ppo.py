"""An iteration of PPO against TRL's former PPO trainer and RLOO: seconds, tokens/s, peak memory, ratios.

    python -m tests.benchmarks.bench_ppo [--work small|opt_1_3b|llama2_7b] [--iterations 4] [--rounds 2]
                                         [--micro-batch N] [--trainers mapft,mapft_static,trl_ppo,rloo]

Peers: `trl.experimental.ppo.PPOTrainer` of trl 1.12.0, the last release with it (installed by pip into a temporary
folder, or taken from --peer; all other packages are those of this environment), and `RLOOTrainer` of the installed
TRL. `mapft_static` is mapft with `cache_implementation="static"`, which compiles the decoding step on a GPU. The
workloads, all with random weights, LoRA r=16 on q and v, and 4 passes over every rollout with one step each:

    small       Llama 8 x 512, vocabulary 4096; 32 prompts of <= 32 tokens, 50 new ones; fp32, two threads of the CPU
    opt_1_3b    OPT-1.3B's shape;               64 prompts of <= 128 tokens, 128 new ones; bf16, the GPU
    llama2_7b   Llama-2-7B's shape;             64 prompts of <= 128 tokens, 128 new ones; bf16, the GPU

TRL's PPO needs a value model: a second model of the same size, as in its own example. The reward is nearly free for
all: a one-layer classifier there, a function here. If a trainer fails (out of memory), its error is printed and the
others continue. For mapft the parts of an iteration are printed; on a GPU also the decoding time as a share of its
lower bound, which is reading all weights once per step (bandwidth measured by a copy), and the model FLOPs utilization
of the updates: 4 FLOPs per weight and token, as LoRA needs no gradient of the base's weights, relative to the
throughput of a large matrix product.

Each trainer runs in a process of its own, `--rounds` times; the first iteration of every process is warm-up.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from tests.benchmarks import ratio

PEER = "trl==1.12.0"
EPOCHS = 4
TRAINERS = ("mapft", "trl_ppo", "rloo")
PARTS = ("generation", "log_probs", "rewards", "critic", "update")


@dataclass(frozen=True)
class Work:
    """The workload of one iteration, the same for every trainer."""

    kind: str  # transformers' model_type
    shape: dict[str, int]
    vocabulary: int
    prompts: int
    prompt_tokens: int
    new_tokens: int
    micro_batch: int
    on_gpu: bool


LLAMA = {"num_attention_heads": 8, "num_hidden_layers": 8, "hidden_size": 512, "intermediate_size": 2048}
LLAMA_7B = {"num_attention_heads": 32, "num_hidden_layers": 32, "hidden_size": 4096, "intermediate_size": 11008}
OPT = {"num_attention_heads": 32, "num_hidden_layers": 24, "hidden_size": 2048, "ffn_dim": 8192}
WORKS = {
    "small": Work("llama", LLAMA, 4096, 32, 32, 50, 32, False),
    "opt_1_3b": Work("opt", OPT | {"word_embed_proj_dim": 2048}, 50272, 64, 128, 128, 32, True),
    "llama2_7b": Work("llama", LLAMA_7B, 32000, 64, 128, 128, 16, True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", choices=WORKS, default="small")
    parser.add_argument("--iterations", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--micro-batch", type=int, help="responses per pass, for all trainers")
    parser.add_argument("--trainers", default=",".join(TRAINERS))
    parser.add_argument("--peer", help=f"a folder with {PEER}; without it, pip installs it into a temporary folder")
    options = parser.parse_args()
    if options.iterations < 2:
        parser.error("--iterations must be 2 or more: the first is warm-up")
    options.micro_batch = options.micro_batch or WORKS[options.work].micro_batch
    names = options.trainers.split(",")
    runs: dict[str, list[dict]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        peer = options.peer or folder
        if "trl_ppo" in names and not options.peer:
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder, PEER]
            subprocess.run(pip, check=True)
        for _ in range(options.rounds):
            for name in names:
                runs[name].append(in_own_process(name, options, peer if name == "trl_ppo" else None))
    report(WORKS[options.work], runs)


def in_own_process(name: str, options: argparse.Namespace, peer: str | None) -> dict:
    """The measurements of `run_worker`, or {"failed": the last line of its error}."""
    paths = [*([peer] if peer else []), str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "HF_HUB_OFFLINE": "1"}
    environment |= {"TRL_EXPERIMENTAL_SILENCE": "1", "PYTHONWARNINGS": "ignore"}
    if not WORKS[options.work].on_gpu:
        environment |= {"OMP_NUM_THREADS": "2", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "tests.benchmarks.bench_ppo", "--worker", name, options.work]
    command += [str(options.iterations), str(options.micro_batch)]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if process.returncode:
        return {"failed": (process.stderr.strip().splitlines() or [f"exit code {process.returncode}"])[-1]}
    return json.loads(process.stdout.splitlines()[-1])


def report(work: Work, runs: dict[str, list[dict]]) -> None:
    """One line per trainer and the ratios to TRL's PPO; the parts of mapft's iteration."""
    seconds = {name: [s for run in results for s in run.get("seconds", [])[1:]] for name, results in runs.items()}
    peak = {name: max((run.get("peak_gb", 0.0) for run in results), default=0.0) for name, results in runs.items()}
    tokens = work.prompts * work.new_tokens
    print(f"{'trainer':12} {'s/iteration':>12} {'new tokens/s':>13} {'peak GB':>8} {'time ratio':>11} {'memory':>8}")
    for name, results in runs.items():
        if not seconds[name]:
            print(f"{name:12} failed: {results[-1]['failed']}")
            continue
        median = statistics.median(seconds[name])
        line = f"{name:12} {median:12.2f} {tokens / median:13.0f} {peak[name]:8.2f}"
        if seconds.get("trl_ppo"):
            line += f" {median / statistics.median(seconds['trl_ppo']):11.2f} {peak[name] / peak['trl_ppo']:8.2f}"
        print(line)
        if seconds.get("trl_ppo") and name != "trl_ppo":
            ratio(f"{name}, seconds of an iteration / TRL 1.12's PPO", median / statistics.median(seconds["trl_ppo"]))
            ratio(f"{name}, peak memory / TRL 1.12's PPO", peak[name] / peak["trl_ppo"])
    for name, results in runs.items():
        parts = [part for run in results for part in run.get("parts", [])]
        if parts:
            medians = {part: statistics.median(each[part] for each in parts) for part in parts[0]}
            shares = ", ".join(f"{part} {seconds:.2f}" for part, seconds in medians.items())
            print(f"{name}, seconds of an iteration: {shares}")
            for fact, value in results[-1].get("gpu", {}).items():
                print(f"    {fact}: {value}")


# ---------------------------------------------------------------- in the process of one trainer


def run_worker(name: str, work: Work, iterations: int, micro_batch: int) -> None:
    import torch
    from transformers import TrainerCallback

    if not work.on_gpu:
        torch.set_num_threads(2)
    torch.manual_seed(0)
    stamps: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: object, **__: object) -> None:
            if work.on_gpu:
                torch.cuda.synchronize()
            stamps.append(time.perf_counter())

    make = {"mapft": mapft_trainer, "mapft_static": static_trainer, "trl_ppo": peer_trainer, "rloo": rloo_trainer}[name]
    trainer, steps = make(work, iterations, micro_batch)
    trainer.add_callback(Clock())
    begin = time.perf_counter()
    trainer.train()
    ends = [begin, *stamps[steps - 1 :: steps]]
    peak = (
        torch.cuda.max_memory_allocated() if work.on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1e3
    )
    measured = {"seconds": [end - start for start, end in pairwise(ends)], "peak_gb": peak / 1e9}
    if name.startswith("mapft"):
        measured["parts"] = parts_of(trainer.state.log_history, work.prompts // micro_batch)[1:]
        if work.on_gpu:
            measured["gpu"] = device_utilization(work, trainer.model, measured["parts"])
    print(json.dumps(measured))


def parts_of(logs: list[dict], micro_batches: int) -> list[dict[str, float]]:
    """Seconds of every part of every iteration; the logs hold means per micro-batch, one line per optimizer step."""
    iterations: list[dict[str, float]] = []
    for log in logs:
        if "timing/generation" in log:
            iterations.append(dict.fromkeys(PARTS, 0.0))
        for part in PARTS:
            if f"timing/{part}" in log:
                iterations[-1][part] += log[f"timing/{part}"] * (micro_batches if part == "update" else 1)
    return iterations


def device_utilization(work: Work, model, parts: list[dict[str, float]]) -> dict[str, str]:
    """Decoding time and FLOPs utilization relative to the bandwidth and throughput measured on this GPU."""
    import torch

    weights = [parameter for name, parameter in model.named_parameters() if "lora" not in name]
    wide = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    square = torch.randn(8192, 8192, dtype=torch.bfloat16, device="cuda")
    bandwidth = 2 * 2**30 / seconds_of(lambda: wide.clone())
    peak = 2 * 8192**3 / seconds_of(lambda: square @ square)
    bound = work.new_tokens * sum(w.numel() * w.element_size() for w in weights) / bandwidth
    generation, update = (statistics.median(each[part] for each in parts) for part in ("generation", "update"))
    tokens = work.prompts * (0.75 * work.prompt_tokens + work.new_tokens)
    flops = EPOCHS * 4 * tokens * sum(w.numel() for w in weights)
    return {
        "GPU": f"{torch.cuda.get_device_name()}, {bandwidth / 1e12:.2f} TB/s, {peak / 1e12:.0f} TFLOP/s measured",
        "decoding": f"{1e3 * generation / work.new_tokens:.2f} ms per step, {bound / generation:.0%} of the bound",
        "updates": f"{flops / update / peak:.0%} of the measured peak",
    }


def seconds_of(call) -> float:
    import torch

    for _ in range(3):
        call()
    torch.cuda.synchronize()
    begin = time.perf_counter()
    for _ in range(10):
        call()
    torch.cuda.synchronize()
    return (time.perf_counter() - begin) / 10


def random_model(work: Work, task: str = "causal", **smaller: int):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "num_labels": 1}
    positions = {"max_position_embeddings": 512, "vocab_size": work.vocabulary}
    config = AutoConfig.for_model(work.kind, **ids, **positions, **(work.shape | smaller))
    auto = AutoModelForCausalLM if task == "causal" else AutoModelForSequenceClassification
    with torch.device("cuda" if work.on_gpu else "cpu"):
        return auto.from_config(config, dtype=torch.bfloat16 if work.on_gpu else torch.float32)


def tokenizer(work: Work):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<pad>": 0, "<s>": 1, "</s>": 2} | {f"w{n}": n for n in range(3, work.vocabulary)}
    plain = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=plain, pad_token="<pad>", bos_token="<s>", eos_token="</s>", padding_side="left"
    )


def prompts(work: Work) -> list[str]:
    from random import Random

    rng = Random(0)
    lengths = [rng.randint(work.prompt_tokens // 2, work.prompt_tokens) for _ in range(work.prompts)]
    return [" ".join(f"w{rng.randrange(3, work.vocabulary)}" for _ in range(length)) for length in lengths]


def length_of(completions: list[str], **_: object) -> list[float]:
    return [float(len(completion)) / 300 for completion in completions]


def lora():
    from peft import LoraConfig

    return LoraConfig(r=16, lora_alpha=32, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")


def common(work: Work, micro_batch: int) -> dict:
    return {
        "output_dir": tempfile.mkdtemp(),
        "learning_rate": 1e-5,
        "bf16": work.on_gpu,
        "use_cpu": not work.on_gpu,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "gradient_checkpointing": False,
        "per_device_train_batch_size": micro_batch,
        "gradient_accumulation_steps": work.prompts // micro_batch,
    }


def mapft_trainer(work: Work, iterations: int, micro_batch: int, **settings: object):
    from datasets import Dataset

    from mapft.ppo import PPOConfig, PPOTrainer

    args = PPOConfig(
        num_ppo_epochs=EPOCHS,
        max_completion_length=work.new_tokens,
        total_episodes=work.prompts * iterations,
        logging_steps=1,
        **settings,
        **common(work, micro_batch),
    )
    rows = Dataset.from_dict({"prompt": prompts(work)})
    trainer = PPOTrainer(
        random_model(work),
        [length_of],
        args=args,
        train_dataset=rows,
        processing_class=tokenizer(work),
        peft_config=lora(),
    )
    return trainer, EPOCHS


def static_trainer(work: Work, iterations: int, micro_batch: int):
    return mapft_trainer(work, iterations, micro_batch, cache_implementation="static")


def rloo_trainer(work: Work, iterations: int, micro_batch: int):
    from datasets import Dataset
    from trl import RLOOConfig, RLOOTrainer

    args = RLOOConfig(
        num_iterations=EPOCHS,
        steps_per_generation=work.prompts // micro_batch,
        num_generations=4,
        max_completion_length=work.new_tokens,
        max_steps=EPOCHS * iterations,
        beta=1.0,
        normalize_advantages=False,
        disable_dropout=True,
        logging_steps=1000,
        **common(work, micro_batch),
    )
    rows = Dataset.from_dict({"prompt": prompts(work)})
    trainer = RLOOTrainer(
        random_model(work),
        [length_of],
        args=args,
        train_dataset=rows,
        processing_class=tokenizer(work),
        peft_config=lora(),
    )
    return trainer, EPOCHS


def peer_trainer(work: Work, iterations: int, micro_batch: int):
    from datasets import Dataset
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    args = PPOConfig(
        num_ppo_epochs=EPOCHS,
        num_mini_batches=1,
        response_length=work.new_tokens,
        temperature=1.0,
        total_episodes=work.prompts * iterations,
        num_sample_generations=0,
        logging_steps=1000,
        **common(work, micro_batch),
    )
    words = tokenizer(work)
    rows = Dataset.from_dict({"input_ids": [words(prompt)["input_ids"] for prompt in prompts(work)]})
    tiny = {"num_hidden_layers": 1, "hidden_size": 64, "num_attention_heads": 8, "intermediate_size": 256}
    if work.kind == "opt":
        tiny = {
            "num_hidden_layers": 1,
            "hidden_size": 64,
            "num_attention_heads": 8,
            "ffn_dim": 256,
            "word_embed_proj_dim": 64,
        }
    trainer = PPOTrainer(
        args=args,
        processing_class=words,
        model=random_model(work),
        ref_model=None,
        reward_model=random_model(work, "score", **tiny),
        value_model=random_model(work, "score"),
        train_dataset=rows,
        eval_dataset=rows,
        peft_config=lora(),
    )
    return trainer, 1


if __name__ == "__main__":
    if "--worker" in sys.argv:
        run_worker(sys.argv[2], WORKS[sys.argv[3]], int(sys.argv[4]), int(sys.argv[5]))
    else:
        main()
