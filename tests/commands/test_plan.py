"""`mapft plan`. Truth: the measured peak of a training process, and sizes computed by hand."""

import json
import re
import subprocess
import sys

import pytest
import torch

from mapft.cli import main
from tests.planning.models import MODELS, settings

MEASURE = """
import ctypes, gc, pathlib, re, sys
from mapft.cli import main
import mapft.training.modes.simultaneous, mapft.ppo.ppo_trainer
assert main(["solve", *sys.argv[1:]]) == 0
gc.collect()
ctypes.CDLL("libc.so.6").malloc_trim(0)
status = lambda key: int(re.search(key + r":\\s+(\\d+) kB", pathlib.Path("/proc/self/status").read_text())[1]) * 1024
before = status("VmRSS")
pathlib.Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
assert main(["train", *sys.argv[1:]]) == 0
print("MEASURED", status("VmHWM") - before)
"""


def planned(arguments, capfd) -> tuple[dict[str, float], str]:
    capfd.readouterr()
    assert main(["plan", *arguments]) == 0
    text = capfd.readouterr().out
    return {name.strip(): float(gb) for name, gb in re.findall(r"^([^\d\n]+?)\s+([\d.]+) GB  ", text, re.M)}, text


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(
    ("name", "rows", "more"),
    [
        ("llama", 16, "trainer.num_mini_batches=2"),
        ("gpt2", 8, "trainer.local_rollout_forward_batch_size=8"),
        ("qwen2", 8, "trainer.gradient_checkpointing=true"),
    ],
)
def test_the_plan_is_within_15_percent_of_the_measured_peak(tmp_path, capfd, name, rows, more):
    """The peak beyond the memory before the training, which has two optimizer steps."""
    batch = [f"trainer.per_device_train_batch_size={rows}", f"trainer.total_episodes={2 * rows}"]
    arguments = settings(tmp_path, name, "sampling.samples_per_prompt=2", *batch, more)
    _, text = planned(arguments, capfd)
    peak = float(re.search(r"([\d.]+) of [\d.]+ GB", text)[1]) * 1e9
    run = subprocess.run([sys.executable, "-c", MEASURE, *arguments], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    measured = float(re.search(r"MEASURED (\d+)", run.stdout)[1])
    print(f"{name}: planned {peak / 1e9:.3f} GB, measured {measured / 1e9:.3f} GB, ratio {peak / measured:.3f}")
    assert peak == pytest.approx(measured, rel=0.15)


def test_persistent_parts_by_hand(tmp_path, capfd):
    arguments = settings(tmp_path, "llama")
    parts, _ = planned(arguments, capfd)
    model = MODELS["llama"]({})
    linear = [m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and n != "lm_head"]
    lora = sum(16 * (m.in_features + m.out_features) for m in linear)
    assert parts["base"] == pytest.approx(sum(p.numel() for p in model.parameters()) * 4 / 1e9, abs=6e-4)
    assert parts["adapter"] == pytest.approx(lora * 16 / 1e9, abs=6e-4)
    parts, _ = planned([*arguments, "model.quantization=nf4"], capfd)
    unpacked = sum(p.numel() for p in model.parameters()) - sum(m.weight.numel() for m in linear)
    packed = sum(m.weight.numel() for m in linear) * (0.5 + 1 / 16)
    assert parts["base"] == pytest.approx((unpacked * 4 + packed) / 1e9, abs=6e-4)


def test_servers_that_the_run_starts_are_counted(tmp_path, capfd):
    arguments = settings(tmp_path, "llama")
    parts, _ = planned(arguments, capfd)
    assert "vLLM servers" not in parts
    urls = "engine.urls=[http://localhost:8000,http://localhost:8001]"
    more, _ = planned([*arguments, "engine=vllm", urls, "engine.python=python", "engine.cache_gb=1.5"], capfd)
    assert more["vLLM servers"] == pytest.approx(2 * (parts["base"] + 1.5), abs=2e-3)


def test_the_plan_names_changes_after_which_it_fits(tmp_path, capfd):
    arguments = settings(tmp_path, "llama", "trainer.per_device_train_batch_size=32")
    _, text = planned([*arguments, "launch=ddp", "launch.memory_gb=80"], capfd)
    assert "on each of 8 GPUs: it fits" in text
    small = [*arguments, "launch.memory_gb=1.2"]
    _, text = planned([*small, "trainer.micro_batch_size=32", "trainer.gradient_checkpointing=false"], capfd)
    change = re.search(r"Smallest change after which it fits: (.*)\.", text)[1]
    assert change == "trainer.micro_batch_size=null"
    _, text = planned([*small, "trainer.gradient_checkpointing=false", change], capfd)
    assert ": it fits." in text
    _, text = planned([*arguments, "launch.memory_gb=0.01"], capfd)
    assert "No change of settings that mapft plan tries makes it fit" in text


def test_deepspeed_divides_memory_among_processes(tmp_path, capfd):
    arguments = [*settings(tmp_path, "llama"), "launch.memory_gb=80"]
    one, _ = planned([*arguments, "launch=ddp"], capfd)
    two, _ = planned([*arguments, "launch=zero2"], capfd)
    three, _ = planned([*arguments, "launch=zero3"], capfd)
    assert two["adapter"] < one["adapter"]
    assert three["base"] == pytest.approx(one["base"] / 8, abs=1e-3)
    assert three["load"] + three["base"] == pytest.approx(one["base"], abs=2e-3)  # every process loads all of it
    assert one["base"] == two["base"]


def test_invalid_devices_and_models_are_one_sentence(tmp_path, capfd):
    arguments = settings(tmp_path, "llama")
    for more, message in (
        (["launch.name=zero9"], "launch.name=zero9 is unknown"),
        (["launch.processes=0"], "launch.processes=0 is invalid"),
        ([f"model.path={tmp_path / 'none'}"], "does not exist"),
        ([f"+rewards.judge={{kind: classifier, path: {tmp_path / 'none'}}}"], "its size is unknown"),
    ):
        assert main(["plan", *arguments, *more]) == 2
        assert message in capfd.readouterr().err
    if not torch.cuda.is_available():
        assert main(["plan", *arguments, "launch=gpu"]) == 2
        assert (
            "No GPU is visible, so its memory is unknown; set it, for example launch.memory_gb=80."
            in capfd.readouterr().err
        )


def test_the_speed_is_that_of_a_run_with_the_same_settings(tmp_path, capfd):
    """By hand: a rollout of 4 s and 1 * 2 * 2 updates of .5 s; 8 * 2 * 2 responses of 12 tokens in 6 s."""
    batches = ["trainer.per_device_train_batch_size=8", "trainer.num_mini_batches=2"]
    arguments = [*settings(tmp_path, "llama"), *batches, "trainer.gradient_accumulation_steps=2"]
    unknown = "Speed is unknown: no run in"
    assert unknown in planned(arguments, capfd)[1]
    assert main(["sample", *arguments]) == 0
    [folder] = (tmp_path / "runs").glob("run-*")
    metrics = {"timing/rollout": 4.0, "timing/update": 0.5, "completions/mean_length": 12.0}
    (folder / "logs.jsonl").write_text(json.dumps(metrics) + '\n{"timing/roll')  # a line is being written
    (tmp_path / "runs" / "zzz").mkdir()
    (tmp_path / "runs" / "zzz" / "config.json").write_text("{}")  # of another version
    (tmp_path / "runs" / "zzz" / "logs.jsonl").write_text("")
    _, text = planned(arguments, capfd)
    assert f"{folder.name} needed 6.0 s per iteration: 64 new tokens per second and process." in text
    assert unknown in planned([*arguments, "trainer.num_mini_batches=1"], capfd)[1]
