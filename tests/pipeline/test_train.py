"""Stage `train`. Truth: an uninterrupted run, one process, and the reference at the first rollout."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from mapft.cli import main
from mapft.ppo.replay import read_groups
from mapft.tracking.lines import JsonLines
from tests import worlds
from tests.worlds import SMALL, own

REFINED = [
    "trainer.total_episodes=192",
    "trainer.per_device_train_batch_size=8",
    "trainer.num_mini_batches=2",
    "trainer.num_ppo_epochs=2",
    "trainer.learning_rate=3e-3",
    "evaluation.samples_per_prompt=2",
    "refine.every=2",
    "+palette.quantiles.judge=0.6",
]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return worlds.build(tmp_path_factory.mktemp("world"))


def windows(folder: Path) -> list[dict]:
    return json.loads((folder / "refinement.json").read_text())["windows"]


def test_two_processes_share_one_run_folder(world, tmp_path):
    """accelerate launch -m mapft with two CPU processes: one folder, one set of artifacts, one lambda."""
    command = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "-m", "mapft", "run"]
    done = subprocess.run(
        [sys.executable, *command, *own(world, tmp_path, *REFINED)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("Predicted and realized") == 1
    [folder] = [path for path in tmp_path.iterdir() if path.name.startswith("run-custom-")]
    lines = [json.loads(line) for line in (folder / "logs.jsonl").read_text().splitlines()]
    # 192 episodes / (8 per step and process * 2 mini-batches * 2 processes) = 6 iterations of 4 steps
    assert max(line["step"] for line in lines) == 24
    assert [window["rollouts"] for window in windows(folder)] == [64, 64, 128]  # the newest half, in whole windows
    # logs.jsonl averages over the processes: had their multipliers differed, it would not hold the main one's
    assert windows(folder)[1]["lam"] != windows(folder)[0]["lam"]
    logged = {line["step"]: line["map/lam/vowels"] for line in lines if "map/lam/vowels" in line}
    assert logged[13] == pytest.approx(windows(folder)[1]["lam"]["vowels"], rel=1e-6)


def test_two_processes_make_the_same_visits(world, tmp_path):
    """Sequential mode under two processes: one set of visits, one adapter, and a table at the end."""
    command = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "-m", "mapft", "run"]
    mode = ["mode=sequential", "mode.rounds=2", "mode.tolerance=0", "mode.smallest_step=0", "mode.visit_episodes=64"]
    overrides = own(world, tmp_path, *SMALL, *mode, "+palette.sd.judge=0.05", f"run_dir={tmp_path / 'run'}")
    done = subprocess.run([sys.executable, *command, *overrides], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("Predicted and realized") == 1
    visits = json.loads((tmp_path / "run" / "sequential.json").read_text())["visits"]
    assert [visit["value"] for visit in visits] == ["vowels", "judge"] * 2
    assert any(not visit["skipped"] for visit in visits)
    for visit in visits:
        assert (tmp_path / "run" / visit["folder"] / "adapter").exists() != visit["skipped"]


def test_a_run_begins_with_the_scored_responses_of_another(world, tmp_path):
    """Pilot, then the other run's responses, then its own; a value that is not scored here is left out."""
    first, second = tmp_path / "first", tmp_path / "second"
    assert main(["train", *own(world, tmp_path, *REFINED, f"run_dir={first}")]) == 0
    small = [*REFINED, "trainer.total_episodes=32", "~rewards.judge", "~palette.quantiles.judge"]
    more = [f"mode.replay_from=[{first}]", "seed=1", f"run_dir={second}"]
    assert main(["train", *own(world, tmp_path, *small, *more)]) == 0
    theirs = read_groups(first / "replay.pt", ["vowels"])
    groups = read_groups(second / "replay.pt", ["vowels"])
    pilot = len(pd.read_parquet(second / "samples.parquet")["prompt_id"].unique())
    assert groups[pilot : pilot + len(theirs)] == theirs
    assert len(groups) == pilot + len(theirs) + 32 // 4
    texts = pd.read_parquet(second / "samples.parquet")
    for number, group in enumerate(groups[:pilot]):
        responses = texts[texts["prompt_id"] == number]["response"]
        assert [score for [score] in group.scores] == [pytest.approx(worlds.vowels([""], [r])[0]) for r in responses]


def test_responses_that_do_not_fit_are_refused(world, tmp_path, capfd):
    first, second = tmp_path / "first", tmp_path / "second"
    more = [f"mode.replay_from=[{first}]", f"run_dir={second}"]
    assert main(["train", *own(world, tmp_path, *REFINED, *more)]) == 2
    assert f"mode.replay_from={first} has no replay.pt" in capfd.readouterr().err.replace("\n", "")
    assert main(["train", *own(world, tmp_path, *REFINED, f"run_dir={first}")]) == 0
    capfd.readouterr()
    other = [*more, "sampling.max_new_tokens=7"]
    assert main(["train", *own(world, tmp_path, *REFINED, *other, f"run_dir={tmp_path / 'third'}")]) == 2
    assert "other settings or files of sampling, so" in capfd.readouterr().err.replace("\n", " ")
    other = [*more, "data.evaluation_fraction=0.5"]  # prompts that are held out here may have been trained on there
    assert main(["train", *own(world, tmp_path, *REFINED, *other, f"run_dir={tmp_path / 'fourth'}")]) == 2
    assert "other settings or files of data, so" in capfd.readouterr().err.replace("\n", " ")


def test_the_same_pilot_is_stored_once(world, tmp_path):
    """With the same seed, the pilot in the other run's store is this run's pilot."""
    first, second = tmp_path / "first", tmp_path / "second"
    assert main(["train", *own(world, tmp_path, *REFINED, f"run_dir={first}")]) == 0
    more = ["trainer.total_episodes=32", f"mode.replay_from=[{first}]", f"run_dir={second}"]
    assert main(["train", *own(world, tmp_path, *REFINED, *more)]) == 0
    values = ["vowels", "judge"]
    assert len(read_groups(second / "replay.pt", values)) == len(read_groups(first / "replay.pt", values)) + 32 // 4


def test_sequential_mode_to_the_closing_table(world, tmp_path, capfd):
    """Both values are visited; the report says why it ended, and the pictures are there."""
    mode = [
        "mode=sequential",
        "mode.rounds=1",
        "mode.visit_episodes=64",
        "+palette.sd.judge=0.05",
        "mode.order=[judge,vowels]",
    ]
    assert main(["run", *own(world, tmp_path, *SMALL, *mode, f"run_dir={tmp_path / 'run'}")]) == 0
    printed = capfd.readouterr().out
    assert re.search(r"2 visits, \d of them skipped: All 1 rounds are complete\.", printed)
    summary = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert [visit["value"] for visit in summary["visits"]] == ["judge", "vowels"]
    assert summary["lam"] == {visit["value"]: visit["lam"] for visit in summary["visits"]}
    assert sorted(path.name for path in (tmp_path / "run" / "figures").glob("*.png")) == [
        "distributions.png",
        "front.png",
        "levels.png",
        "prices.png",
        "trajectories.png",
        "visits.png",
    ]
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").exists()


def test_an_interrupted_training_resumes_to_the_same_adapter(world, tmp_path, monkeypatch):
    """Stopped within an iteration, between two refinements: the same command ends where it would have, to the bit."""
    overrides = own(world, tmp_path, *REFINED, "trainer.save_steps=1")
    assert main(["train", *overrides, f"run_dir={tmp_path / 'whole'}"]) == 0
    log = JsonLines.on_log

    def stop(self, args, state, *rest, **more):
        log(self, args, state, *rest, **more)
        if state.global_step == 31:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(JsonLines, "on_log", stop)
        assert main(["train", *overrides, f"run_dir={tmp_path / 'cut'}"]) == 130
    assert not (tmp_path / "cut" / "adapter").exists()
    assert main(["train", *overrides, f"run_dir={tmp_path / 'cut'}"]) == 0
    assert windows(tmp_path / "cut") == windows(tmp_path / "whole")
    assert any("ess" in window for window in windows(tmp_path / "cut"))
    resumed, whole = (
        (tmp_path / name / "adapter" / "adapter_model.safetensors").read_bytes() for name in ("cut", "whole")
    )
    assert resumed == whole


@pytest.mark.parametrize(
    "variant",
    [
        "model.quantization=nf4",
        "model.quantization=int8",
        "adapter.use_dora=true",
        "adapter.use_rslora=true",
        "trainer.gradient_checkpointing=true",
    ],
)
def test_quantized_bases_and_adapter_variants_start_at_the_reference(world, tmp_path, variant):
    """The first rollout has KL 0 and ratio 1 whatever holds the base or shapes the adapter."""
    run = tmp_path / "run"
    assert main(["train", *own(world, tmp_path, *SMALL, variant, f"run_dir={run}", "trainer.learning_rate=3e-3")]) == 0
    lines = [json.loads(line) for line in (run / "logs.jsonl").read_text().splitlines()]
    first, *_, last = [line for line in lines if "objective/kl" in line]
    assert first["objective/kl"] == pytest.approx(0, abs=1e-4)
    assert first["val/ratio"] == pytest.approx(1, abs=1e-4)
    assert abs(last["objective/kl"]) > 1e-3
    weights = load_file(run / "adapter" / "adapter_model.safetensors")
    assert all(array.any() for name, array in weights.items() if "lora_B" in name)
    assert {array.dtype for array in weights.values()} == {torch.float32}


def test_training_from_an_adapter_takes_it_as_the_reference(world, tmp_path, capfd):
    """A second run that hardly moves: its KL is 0 to the first run's policy, which lies far from the bare model."""
    first, second = tmp_path / "first", tmp_path / "second"
    assert main(["run", *own(world, tmp_path, *SMALL, "trainer.learning_rate=1e-2", f"run_dir={first}")]) == 0
    capfd.readouterr()
    more = ["trainer.learning_rate=1e-6", f"model.adapter={first / 'adapter'}", f"run_dir={second}"]
    assert main(["run", *own(world, tmp_path, *SMALL, *more)]) == 0
    assert f"with the adapter {first / 'adapter'}" in capfd.readouterr().out.replace("\n", "")
    logged = [json.loads(line) for line in (second / "logs.jsonl").read_text().splitlines()]
    assert logged[0]["objective/kl"] == pytest.approx(0, abs=1e-4)
    near, far = (
        json.loads((folder / "evaluation.json").read_text())["policies"]["tuned"]["kl"]["mean"]
        for folder in (second, first)
    )
    assert far > 0.1
    assert near == pytest.approx(0, abs=1e-2)
    before, after = (load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (first, second))
    assert after.keys() == before.keys()
    assert any(not torch.equal(after[name], before[name]) for name in after)
    assert not (second / "adapter" / "ref").exists()
