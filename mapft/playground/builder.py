"""Builds the world into a folder: prompts and tokenizer first, then four models in parallel processes.

folder/prompts.jsonl   one JSON object per line: prompt (a complete model input), kind ("everyday" | "dubious")
folder/policy          LlamaForCausalLM and its tokenizer
folder/<value>         AutoModelForSequenceClassification with one output, and its tokenizer
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from random import Random

from mapft.utils.errors import UserError
from mapft.utils.terminal import make_console, progress

from .grammar import VALUES, Prompt, load_grammar
from .sizes import SIZES
from .tokenizer import train_tokenizer

MODELS = ("policy", *VALUES)
PARTIAL = ".partial-"
INSTRUCTION = "Answer in one short sentence."


def build(folder: Path, seed: int = 0, *, _size: str = "full") -> None:
    """Build the world into `folder`, which must not exist. It appears only when it is complete."""
    folder = Path(folder)
    if folder.exists():
        raise UserError(f"The folder {folder} already exists; remove it or name another one to build the playground.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{folder.name}{PARTIAL}", dir=folder.parent) as temporary:
        partial = Path(temporary) / "world"
        partial.mkdir()
        _write_prompts(partial / "prompts.jsonl", seed)
        _write_tokenizer(partial, seed, _size)
        _train_all(partial, seed, _size)
        partial.rename(folder)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary folders of killed builds of `folder`."""
    for leftover in folder.parent.glob(f"{folder.name}{PARTIAL}*"):
        shutil.rmtree(leftover)


def write_requests(path: Path, seed: int) -> None:
    """One JSON object per line for a chat model: prompt (a request as a user types it), kind."""
    _write_lines(path, ((f"{prompt.question} {INSTRUCTION}", prompt.kind) for prompt in _shuffled_prompts(seed)))


def _shuffled_prompts(seed: int) -> list[Prompt]:
    prompts = list(load_grammar().prompts)
    Random(f"prompts {seed}").shuffle(prompts)
    return prompts


def _write_prompts(path: Path, seed: int) -> None:
    _write_lines(path, ((prompt.text, prompt.kind) for prompt in _shuffled_prompts(seed)))


def _write_lines(path: Path, rows: Iterable[tuple[str, str]]) -> None:
    lines = (json.dumps({"prompt": prompt, "kind": kind}) for prompt, kind in rows)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _write_tokenizer(folder: Path, seed: int, size_name: str) -> None:
    size, grammar, rng = SIZES[size_name], load_grammar(), Random(f"tokenizer {seed}")
    replies = [
        grammar.sample(prompt.task, rng).text for prompt in rng.choices(grammar.prompts, k=size.tokenizer_replies)
    ]
    tokenizer = train_tokenizer([*(prompt.text for prompt in grammar.prompts), *replies], size.vocab_size)
    for name in MODELS:
        tokenizer.save_pretrained(folder / name)


def _train_all(folder: Path, seed: int, size_name: str) -> None:
    """Train the models in parallel, one process each; the first failure ends the build."""
    size = SIZES[size_name]
    pool = ThreadPoolExecutor(os.cpu_count())
    with progress(make_console(stderr=True)) as update:
        try:
            jobs = []
            for name in MODELS:
                steps, label = (size.policy_steps, "base policy") if name == "policy" else (size.reward_steps, name)
                task = f"Building the playground: {label}"
                on_step = partial(update, task, total=steps)
                on_step(0)
                jobs.append(pool.submit(_train_one, name, folder / name, seed, size_name, on_step))
            for job in as_completed(jobs):
                job.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _train_one(name: str, folder: Path, seed: int, size_name: str, on_step: Callable[[int], object]) -> None:
    """Run one worker; on_step is called with the number of steps that it has done."""
    command = [sys.executable, "-m", "mapft.playground.worker", name, str(folder), str(seed), size_name]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    messages = []
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=subprocess.STDOUT, text=True, env=environment) as worker:
        for line in worker.stdout or ():
            if line.startswith("step "):
                on_step(int(line.removeprefix("step ")))
            else:
                messages.append(line)
    if worker.returncode:
        raise RuntimeError(f"Training the playground's {name} model failed:\n{''.join(messages)}")
