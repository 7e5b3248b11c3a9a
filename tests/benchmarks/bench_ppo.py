"""PPO against the trainer that people left, in one run on the same work: seconds, tokens/s, peak memory, ratios.

    python -m tests.benchmarks.bench_ppo [--iterations 4] [--rounds 2] [--micro-batch 32]

Peers: `trl.experimental.ppo.PPOTrainer` of trl 1.12.0, the last release with it (fetched by pip into a temporary
folder; all else is this environment's), and `RLOOTrainer` of the installed TRL. The work: Llama 8 layers x 512,
vocabulary 4096, random weights, LoRA r=16 on q and v, 32 prompts of at most 32 tokens, 50 new tokens, 4 passes over
every rollout with one step of 32 responses (in micro-batches, if asked), fp32, two threads. TRL's PPO needs a value
model: a second Llama of the same size, as its own example has it. The reward is nearly free for all: a one-layer
classifier there, a function here.

Trainers run in turn, each in a process of its own, `--rounds` times; the first iteration of every process is warm-up.
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
from itertools import pairwise
from pathlib import Path

PEER = "trl==1.12.0"
PROMPTS, PROMPT_TOKENS, NEW_TOKENS, EPOCHS, VOCABULARY = 32, 32, 50, 4, 4096
TRAINERS = ("mapft", "trl_ppo", "rloo")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--micro-batch", type=int, default=PROMPTS, help="responses per pass, for all trainers")
    options = parser.parse_args()
    seconds: dict[str, list[float]] = {name: [] for name in TRAINERS}
    peak: dict[str, list[float]] = {name: [] for name in TRAINERS}
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder, PEER]
        subprocess.run(pip, check=True)
        for _ in range(options.rounds):
            for name in TRAINERS:
                measured = in_own_process(name, options, folder if name == "trl_ppo" else None)
                seconds[name] += measured["seconds"][1:]
                peak[name].append(measured["peak_gb"])
    report(seconds, peak)


def in_own_process(name: str, options: argparse.Namespace, peer: str | None) -> dict:
    """Seconds of every iteration and peak resident memory in GB."""
    paths = [*([peer] if peer else []), str(Path(__file__).parents[2])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "2", "HF_HUB_OFFLINE": "1"}
    environment |= {"TRL_EXPERIMENTAL_SILENCE": "1", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", "tests.benchmarks.bench_ppo", "--worker", name]
    command += [str(options.iterations), str(options.micro_batch)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{name} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def report(seconds: dict[str, list[float]], peak: dict[str, list[float]]) -> None:
    """One line per trainer and the ratios to TRL's PPO."""
    tokens = PROMPTS * NEW_TOKENS
    print(f"{'trainer':10} {'s/iteration':>12} {'new tokens/s':>13} {'peak GB':>8} {'time ratio':>11} {'memory':>8}")
    for name in TRAINERS:
        middle, memory = statistics.median(seconds[name]), max(peak[name])
        ratios = middle / statistics.median(seconds["trl_ppo"]), memory / max(peak["trl_ppo"])
        print(f"{name:10} {middle:12.2f} {tokens / middle:13.0f} {memory:8.2f} {ratios[0]:11.2f} {ratios[1]:8.2f}")


# ---------------------------------------------------------------- inside the process of one trainer


def work(name: str, iterations: int, micro_batch: int) -> None:
    import torch
    from transformers import TrainerCallback

    torch.set_num_threads(2)
    torch.manual_seed(0)
    stamps: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: object, **__: object) -> None:
            stamps.append(time.perf_counter())

    trainer, steps = {"mapft": mapft_trainer, "trl_ppo": peer_trainer, "rloo": rloo_trainer}[name](
        iterations, micro_batch
    )
    trainer.add_callback(Clock())
    begin = time.perf_counter()
    trainer.train()
    ends = [begin, *stamps[steps - 1 :: steps]]
    seconds = [end - start for start, end in pairwise(ends)]
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(json.dumps({"seconds": seconds, "peak_gb": peak_gb}))


def llama(layers: int = 8, hidden: int = 512, task: str = "causal"):
    from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_labels=1,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        max_position_embeddings=256,
    )
    return (LlamaForCausalLM if task == "causal" else LlamaForSequenceClassification)(config)


def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<pad>": 0, "<s>": 1, "</s>": 2} | {f"w{n}": n for n in range(3, VOCABULARY)}
    plain = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=plain, pad_token="<pad>", bos_token="<s>", eos_token="</s>", padding_side="left"
    )


def prompts() -> list[str]:
    from random import Random

    rng = Random(0)
    lengths = [rng.randint(PROMPT_TOKENS // 2, PROMPT_TOKENS) for _ in range(PROMPTS)]
    return [" ".join(f"w{rng.randrange(3, VOCABULARY)}" for _ in range(length)) for length in lengths]


def length_of(completions: list[str], **_: object) -> list[float]:
    return [float(len(completion)) / 300 for completion in completions]


def lora():
    from peft import LoraConfig

    return LoraConfig(r=16, lora_alpha=32, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")


COMMON = {
    "learning_rate": 1e-5,
    "bf16": False,
    "use_cpu": True,
    "report_to": "none",
    "save_strategy": "no",
    "disable_tqdm": True,
    "gradient_checkpointing": False,
    "logging_steps": 1000,
}


def mapft_trainer(iterations: int, micro_batch: int):
    from datasets import Dataset

    from mapft.ppo import PPOConfig, PPOTrainer

    args = PPOConfig(
        output_dir=tempfile.mkdtemp(),
        num_ppo_epochs=EPOCHS,
        max_completion_length=NEW_TOKENS,
        total_episodes=PROMPTS * iterations,
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=PROMPTS // micro_batch,
        **COMMON,
    )
    rows = Dataset.from_dict({"prompt": prompts()})
    trainer = PPOTrainer(
        llama(), [length_of], args=args, train_dataset=rows, processing_class=tokenizer(), peft_config=lora()
    )
    return trainer, EPOCHS


def rloo_trainer(iterations: int, micro_batch: int):
    from datasets import Dataset
    from trl import RLOOConfig, RLOOTrainer

    args = RLOOConfig(
        output_dir=tempfile.mkdtemp(),
        num_iterations=EPOCHS,
        steps_per_generation=PROMPTS // micro_batch,
        num_generations=4,
        max_completion_length=NEW_TOKENS,
        max_steps=EPOCHS * iterations,
        beta=1.0,
        normalize_advantages=False,
        disable_dropout=True,
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=PROMPTS // micro_batch,
        **COMMON,
    )
    rows = Dataset.from_dict({"prompt": prompts()})
    trainer = RLOOTrainer(
        llama(), [length_of], args=args, train_dataset=rows, processing_class=tokenizer(), peft_config=lora()
    )
    return trainer, EPOCHS


def peer_trainer(iterations: int, micro_batch: int):
    from datasets import Dataset
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    args = PPOConfig(
        output_dir=tempfile.mkdtemp(),
        num_ppo_epochs=EPOCHS,
        num_mini_batches=1,
        response_length=NEW_TOKENS,
        temperature=1.0,
        total_episodes=PROMPTS * iterations,
        num_sample_generations=0,
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=PROMPTS // micro_batch,
        **COMMON,
    )
    words = tokenizer()
    rows = Dataset.from_dict({"input_ids": [words(prompt)["input_ids"] for prompt in prompts()]})
    trainer = PPOTrainer(
        args=args,
        processing_class=words,
        model=llama(),
        ref_model=None,
        reward_model=llama(layers=1, hidden=64, task="score"),
        value_model=llama(task="score"),
        train_dataset=rows,
        eval_dataset=rows,
        peft_config=lora(),
    )
    return trainer, 1


if __name__ == "__main__":
    if "--worker" in sys.argv:
        work(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    else:
        main()
