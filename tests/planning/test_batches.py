"""The batches that fit. Truth: the estimate itself at other sizes, hand arithmetic, and a training in one pass."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file
from transformers import FalconConfig, FalconForCausalLM

from mapft.cli import main
from mapft.commands.composed import with_config
from mapft.planning import estimate, most_bytes, undivided
from mapft.planning.batches import largest, powers_of_two
from mapft.planning.memory_tracker import MemoryTracker
from mapft.planning.phases import Phases, replay_rows
from tests import worlds
from tests.planning.models import settings
from tests.worlds import SMALL, own

PROMPT = 20


def config(arguments):
    configs = []
    with_config(arguments, configs.append)
    return configs[0]


def test_bytes_are_counted_once_until_they_are_freed():
    with MemoryTracker() as tracker:
        tensor = torch.empty(1000)
        view = tensor[:10].reshape(2, 5)
        assert tracker.now == 4000
        other = torch.empty(500, dtype=torch.float64)
        assert tracker.now == 8000
        del other
        assert tracker.now == 4000
        tensor.add_(1)
        assert (tracker.now, tracker.peak) == (4000, 8000)
        del tensor
        assert tracker.now == 4000  # the view shares its storage
        del view
        assert tracker.now == 0


def test_the_largest_size_that_fits():
    for sizes in ([1], [1, 2, 4, 5], list(range(1, 40))):
        for limit in range(-1, 42):
            fitting = [size for size in sizes if size <= limit]
            assert largest(sizes, lambda size: size <= limit) == (fitting[-1] if fitting else sizes[0])  # noqa: B023
    assert list(powers_of_two(12)) == [1, 2, 4, 8, 12]
    assert list(powers_of_two(1)) == [1]


def test_stored_responses_of_a_micro_batch_are_whole_groups(tmp_path):
    """replay_batch=64: 8 groups of 8 (the pilot) or 16 of 4 (rollouts), over 1, 2, 4, 8, 16, 32 micro-batches."""
    chosen = config(settings(tmp_path, "gpt2", "trainer.per_device_train_batch_size=32"))
    assert (chosen.sampling.samples_per_prompt, chosen.trainer.num_generations, chosen.trainer.replay_batch) == (
        8,
        4,
        64,
    )
    assert [replay_rows(chosen, rows) for rows in (32, 16, 8, 4, 2, 1)] == [64, 32, 16, 8, 8, 8]
    without = config(settings(tmp_path, "gpt2", "trainer.replay_batch=0"))
    assert replay_rows(without, 1) == 0


@pytest.mark.parametrize("share", [0.9, 0.3, 0.05])
def test_each_phase_fits_and_the_next_size_does_not(tmp_path, share):
    """Of what an update with all responses at once needs, a share is free."""
    plan = config(settings(tmp_path, "llama", "launch.memory_gb=1"))
    phases = Phases(plan, PROMPT)
    whole = undivided(plan)
    free = share * phases.update(whole.micro_batch, checkpointing=False)
    persistent = sum(estimate(plan, phases, 1e15).persistent.values())
    memory = estimate(plan, phases, (free + persistent) / 0.94)
    batches = memory.batches
    assert batches.checkpointing == (phases.update(1, checkpointing=False) > free)
    assert memory.phases["update"] <= free or batches.micro_batch == 1
    assert memory.phases["log_probs"] <= free or batches.log_probs == 1
    assert max(memory.phases["prefill"], memory.phases["decoding"]) <= free or batches.generation == 1
    if batches.micro_batch < whole.micro_batch:
        assert phases.update(2 * batches.micro_batch, checkpointing=batches.checkpointing) > free
    if batches.generation < whole.generation:
        assert max(phases.generation(2 * batches.generation, whole.generation).values()) > free
    if batches.log_probs < whole.log_probs:
        assert phases.log_probs(2 * batches.log_probs) > free
    assert batches.micro_batch < whole.micro_batch


@pytest.mark.parametrize("name", ["llama", "gpt2", "qwen2"])
def test_the_bound_without_a_pass_is_above_every_phase(tmp_path, name):
    plan = config(settings(tmp_path, name, "launch.memory_gb=1000", "trainer.gradient_checkpointing=false"))
    on_gpu = config(settings(tmp_path, name, "launch=gpu", "launch.memory_gb=1000"))
    memory = estimate(on_gpu, Phases(on_gpu, PROMPT), 1e15)
    assert memory.batches == undivided(plan)
    assert most_bytes(plan, PROMPT) > 2 * max(memory.phases.values())


# ---------------------------------------------------------------------- in a run


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return worlds.build(tmp_path_factory.mktemp("world"))


def test_a_run_keeps_the_batches_that_plan_named(world, tmp_path, capfd):
    arguments = own(world, tmp_path, "launch.memory_gb=0.06")
    assert main(["plan", *arguments]) == 0
    planned = re.search(r"Responses at a time: .*", capfd.readouterr().out)[0]
    assert main(["sample", *arguments]) == 0
    said = capfd.readouterr().out
    assert re.search(r"Memory: about [\d.]+ of 0.1 GB", said)
    assert planned in said
    [path] = tmp_path.glob("run-*/batches.json")
    batches = json.loads(path.read_text())["batches"]
    assert f"{batches['micro_batch']} in training (of 64 in an optimizer step)" in planned
    assert batches["micro_batch"] < 64
    (tmp_path / "cache").rename(tmp_path / "elsewhere")
    path.with_name("samples.parquet").unlink()
    assert main(["sample", *arguments, "launch.memory_gb=80"]) == 0  # the same run with more memory
    assert "Memory" not in capfd.readouterr().out
    assert json.loads(path.read_text())["batches"] == batches


def test_an_optimizer_step_is_the_same_with_other_micro_batches(world, tmp_path):
    """One run in passes of 16 and generation at once, one in passes of 2 and generation of 5 at a time."""
    parts = ["trainer.micro_batch_size=2", "sampling.micro_batch_size=5", "trainer.local_rollout_forward_batch_size=3"]
    for name, more in {"whole": [], "parts": parts}.items():
        assert main(["train", *own(world, tmp_path / name, *SMALL, *more, f"run_dir={tmp_path / name / 'run'}")]) == 0
    whole, split = (load_file(tmp_path / name / "run/adapter/adapter_model.safetensors") for name in ("whole", "parts"))
    lines = [json.loads(line) for line in (tmp_path / "parts/run/logs.jsonl").read_text().splitlines()]
    assert max(line["step"] for line in lines) == 32  # 128 episodes / 32 in an iteration, 4 epochs of 2 mini-batches
    for weight in whole:
        torch.testing.assert_close(split[weight], whole[weight], atol=2e-5, rtol=1e-3)


def test_a_model_whose_memory_cannot_be_estimated_runs_with_the_batches_of_the_settings(world, tmp_path, capfd):
    """Falcon has no place for another attention function."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "ffn_hidden_size": 64}
    words = worlds.tokenizer("<|end|>")
    ends = {"bos_token_id": words.eos_token_id, "eos_token_id": words.eos_token_id}
    FalconForCausalLM(FalconConfig(vocab_size=len(words), **sizes, **ends)).save_pretrained(tmp_path / "falcon")
    words.save_pretrained(tmp_path / "falcon")
    arguments = own({**world, "model": tmp_path / "falcon"}, tmp_path / "runs", *SMALL, "data.pilot_prompts=4")
    assert main(["plan", *arguments]) == 2
    message = capfd.readouterr().err
    assert "cannot be estimated, because its code does not run on tensors without data" in message
    assert "Traceback" not in message
    assert main(["sample", *arguments]) == 0
    captured = capfd.readouterr()
    assert "cannot be estimated" in captured.out
    assert "Traceback" not in captured.err
    [path] = tmp_path.glob("runs/run-*/batches.json")
    assert json.loads(path.read_text())["batches"]["micro_batch"] == 16


def test_micro_batches_divide_an_optimizer_step(world, tmp_path, capfd):
    assert main(["plan", *own(world, tmp_path, *SMALL, "trainer.micro_batch_size=5")]) == 2
    assert "trainer.micro_batch_size=5 is invalid; it must be a divisor of the 16 responses" in capfd.readouterr().err
