"""What only a GPU can show. Truth: the base policy before the first step, the allocator's peak.

`MAPFT_DRY_RUN=1 pytest -m gpu` runs on the CPU those that it can run too.
"""

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from mapft.cli import main
from tests import worlds
from tests.planning.models import settings
from tests.worlds import SMALL, own

GPU, DRY_RUN = torch.cuda.is_available(), bool(os.environ.get("MAPFT_DRY_RUN"))
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.slow,
    pytest.mark.skipif(not (GPU or DRY_RUN), reason="There is no GPU; MAPFT_DRY_RUN=1 uses the CPU."),
]
on_a_gpu = pytest.mark.skipif(not GPU, reason="There is no GPU.")
HALF = 0.05  # nats of a response of 8 tokens: log-probabilities of bfloat16 and float16


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return worlds.build(tmp_path_factory.mktemp("world"))


def trained(arguments: list[str], run: Path) -> list[dict[str, float]]:
    """Lines of logs.jsonl of iterations."""
    assert main(["train", *arguments, f"run_dir={run}"]) == 0
    lines = [json.loads(line) for line in (run / "logs.jsonl").read_text("utf-8").splitlines()]
    return [line for line in lines if "objective/kl" in line]


@pytest.mark.parametrize(
    "variant",
    [
        "model.dtype=bfloat16",
        pytest.param("model.dtype=float16", marks=on_a_gpu),
        "model.quantization=nf4",
        "model.quantization=int8",
        "trainer.cache_implementation=static",
        pytest.param("trainer.use_transformers_continuous_batching=true", marks=on_a_gpu),
        pytest.param(
            "model.attn_implementation=flash_attention_2",
            marks=[on_a_gpu, pytest.mark.skipif(not find_spec("flash_attn"), reason="flash_attn is not installed.")],
        ),
    ],
)
def test_training_starts_at_the_base_policy_and_leaves_it(world, tmp_path, variant):
    first, *_, last = trained(own(world, tmp_path, *SMALL, variant, "trainer.learning_rate=3e-3"), tmp_path / "run")
    assert first["objective/kl"] == pytest.approx(0, abs=HALF)
    assert first["val/ratio"] == pytest.approx(1, abs=HALF)
    assert abs(last["objective/kl"]) > 1e-3


GENERATE = """
import sys, torch
from mapft.cli import main
free, total = torch.cuda.mem_get_info()
torch.cuda.set_per_process_memory_fraction(1.5e9 / total)
sys.exit(main(sys.argv[1:]))
"""


@on_a_gpu
def test_a_batch_that_does_not_fit_is_generated_in_halves(tmp_path):
    """1.5 GB for 4096 responses at once with 32 768 possible tokens: the logits alone take .5 GB a step in float32."""
    batches = ["sampling.batch_size=4096", "sampling.micro_batch_size=4096", "sampling.samples_per_prompt=384"]
    arguments = settings(tmp_path, "llama", *batches, "model.dtype=float32")
    done = subprocess.run(
        [sys.executable, "-c", GENERATE, "sample", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Out of memory while generating" in done.stdout + done.stderr


@on_a_gpu
@pytest.mark.parametrize("name", ["llama", "gpt2", "qwen2"])
def test_the_plan_is_within_15_percent_of_the_allocators_peak(tmp_path, capfd, name):
    """Without the context of the process, which the allocator does not see."""
    batches = ["trainer.per_device_train_batch_size=64", "trainer.micro_batch_size=64", "trainer.total_episodes=128"]
    arguments = settings(tmp_path, name, *batches, "launch=gpu", "sampling.samples_per_prompt=2")
    assert main(["plan", *arguments]) == 0
    text = capfd.readouterr().out
    planned, context = (float(re.search(found, text)[1]) for found in (r"([\d.]+) of [\d.]+ GB", r"context\s+([\d.]+)"))
    peak = max(line["memory/peak_gb"] for line in trained(arguments, tmp_path / "run"))
    print(f"{name}: planned {planned - context:.3f} GB, measured {peak:.3f} GB")
    assert planned - context == pytest.approx(peak, rel=0.15)
