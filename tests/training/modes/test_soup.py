"""Truth: adapters added by hand; the processes that called the score; what a locked folder contains."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from filelock import FileLock
from peft import LoraConfig, PeftModel, get_peft_model

from mapft.cli import main
from mapft.config import AdapterConfig, DataConfig, ModelConfig, PaletteConfig
from mapft.config.run_folder import RunFolder
from mapft.pipeline.run import Run
from mapft.pipeline.sample import sample
from mapft.pipeline.score import score
from mapft.pipeline.solve import solve
from mapft.pipeline.train import train_variant
from mapft.sampling.models import load_policy
from mapft.training.modes.scalarized import Scalarized
from mapft.training.modes.soup import Soup, average
from mapft.utils.errors import UserError
from tests import worlds
from tests.configs import make_config
from tests.ppo import tabular
from tests.training.inputs import make_inputs
from tests.worlds import own


@pytest.fixture
def model(tmp_path):
    tabular.model().save_pretrained(tmp_path / "model")
    tabular.tokenizer().save_pretrained(tmp_path / "model")
    return ModelConfig(path=str(tmp_path / "model"))


def random_adapter(model: ModelConfig, folder: Path, seed: int, **settings) -> dict[str, torch.Tensor]:
    """Saves an adapter of random weights; returns the weights of the model merged with it."""
    lora = LoraConfig(lora_alpha=8, target_modules="all-linear", exclude_modules=["lm_head"], **settings)
    tuned = get_peft_model(load_policy(model)[0], lora)
    torch.manual_seed(seed)
    for name, parameter in tuned.named_parameters():
        if "lora_" in name and "magnitude" not in name:
            torch.nn.init.normal_(parameter, std=0.1)
    tuned.save_pretrained(folder)
    return tuned.merge_and_unload().state_dict()


def merged(model: ModelConfig, adapter: Path) -> dict[str, torch.Tensor]:
    return PeftModel.from_pretrained(load_policy(model)[0], str(adapter)).merge_and_unload().state_dict()


def test_the_average_is_the_weighted_sum_of_the_changes(tmp_path, model):
    """Two adapters of different rank, weights 1 and 3: W + .25 delta_1 + .75 delta_2, layer by layer."""
    tuned = {name: random_adapter(model, tmp_path / name, r, r=2 * r) for name, r in (("one", 1), ("two", 2))}
    adapters = {name: tmp_path / name for name in tuned}
    average(model, adapters, {"one": 1.0, "two": 3.0}, RunFolder(tmp_path))
    soup = merged(model, tmp_path / "adapter")
    for name, weight in load_policy(model)[0].state_dict().items():
        by_hand = weight + 0.25 * (tuned["one"][name] - weight) + 0.75 * (tuned["two"][name] - weight)
        torch.testing.assert_close(soup[name], by_hand, atol=1e-6, rtol=0)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_the_average_of_equal_rank_stabilised_adapters_is_that_adapter(tmp_path, model):
    tuned = random_adapter(model, tmp_path / "stable", 0, r=4, use_rslora=True)
    twice = {"one": tmp_path / "stable", "two": tmp_path / "stable"}
    average(model, twice, {"one": 1.0, "two": 1.0}, RunFolder(tmp_path))
    soup = merged(model, tmp_path / "adapter")
    for name, weight in tuned.items():
        torch.testing.assert_close(soup[name], weight, atol=1e-5, rtol=0)


def test_adapters_that_are_more_than_low_rank_factors_are_refused(tmp_path, model):
    """The magnitudes of DoRA are not averaged."""
    random_adapter(model, tmp_path / "plain", 0, r=2)
    random_adapter(model, tmp_path / "dora", 1, r=2, use_dora=True)
    adapters = {"one": tmp_path / "plain", "two": tmp_path / "dora"}
    with pytest.raises(UserError, match="The adapter two cannot be averaged, .* differ from it by .* nats per token"):
        average(model, adapters, {"one": 1.0, "two": 1.0}, RunFolder(tmp_path))
    assert not (tmp_path / "adapter").exists()


def test_dora_adapters_are_refused_with_the_settings():
    with pytest.raises(UserError, match="use_dora=true does not work with mode=soup"):
        make_config(mode=Soup(name="soup", weights={"a": 1.0}), adapter=AdapterConfig(use_dora=True))


def test_every_value_is_trained_alone_at_the_same_kl(tmp_path):
    variants = []

    def train_variant(mode):
        variants.append(mode)
        return tmp_path / "single"

    mode = Soup(name="soup", weights={"a": 1.0, "b": 3.0}, kl=0.2)
    (tmp_path / "adapter").mkdir()  # the average is there already
    assert mode.train(make_inputs(tmp_path, mode, train_variant=train_variant)) is None
    assert variants == [Scalarized(name="scalarized", weights={value: 1.0}, kl=0.2) for value in ("a", "b")]
    assert mode.scored_responses(100, 40, None) == 200


def test_a_value_of_weight_0_is_not_trained():
    mode = Soup(name="soup", weights={"a": 1.0, "b": 0.0})
    assert mode.averaged == ["a"]
    assert mode.scored_responses(100, 40, None) == 100


# ---------------------------------------------------------------------- the command line

SMALL_SOUP = [
    "mode=soup",
    "+mode.weights.vowels=1",
    "+mode.weights.judge=1",
    "mode.kl=0.1",
    "sampling.samples_per_prompt=4",
    "trainer.total_episodes=32",
    "trainer.per_device_train_batch_size=16",
    "trainer.num_ppo_epochs=1",
]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return worlds.build(tmp_path_factory.mktemp("world"))


def soup_command(world, output: Path) -> list[str]:
    return ["train", *own(world, output, *SMALL_SOUP, "rewards.vowels.target=tests.training.ranked:vowels_by_rank")]


def test_two_processes_score_the_pilot_in_one_and_share_every_variant(world, tmp_path, monkeypatch):
    """Two variants of one value each; the pilot's prompts and responses reach the score of rank 0, once."""
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "-m", "mapft"]
    command = [sys.executable, *launch, *soup_command(world, tmp_path / "runs")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    calls = [json.loads(line) for line in (tmp_path / "calls").read_text().splitlines()]
    assert {call["rank"] for call in calls if call["training"]} == {0, 1}
    assert [call["rank"] for call in calls if not call["training"]] == [0, 0]  # the measurement of speed, and the pilot
    runs = sorted(path for path in (tmp_path / "runs").glob("run-*"))
    assert len(runs) == 3
    modes = [json.loads((run / "training.json").read_text())["mode"] for run in runs]
    assert sorted(modes) == ["scalarized", "scalarized", "soup"]
    for run in runs:
        assert (run / "adapter" / "adapter_model.safetensors").exists()
        assert not list(run.glob(".*tmp*"))


class Waits(Exception):
    """Raised in place of waiting."""


def train_on_vowels(run: Run) -> None:
    train_variant(run, Scalarized(name="scalarized", weights={"vowels": 1.0}))


@pytest.mark.parametrize(
    ("stage", "reads", "waits_for"),
    [
        (train_on_vowels, None, "samples.parquet"),
        (sample, None, "samples.parquet"),
        (score, "samples.parquet", "scores.parquet"),
        (solve, "scores.parquet", "solution.json"),
    ],
)
def test_ranks_other_than_0_wait_for_files_and_write_none(world, tmp_path, monkeypatch, stage, reads, waits_for):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(Run, "wait_for", lambda run, path: (_ for _ in ()).throw(Waits(path.name)))
    config = make_config(
        model=ModelConfig(path=str(world["model"])),
        data=DataConfig(path=str(world["prompts"]), column="question"),
        rewards={"vowels": {"kind": "function", "target": "tests.worlds:vowels"}},
        palette=PaletteConfig(absolute={"vowels": 0.3}),
        output=str(tmp_path),
    )
    run = Run(config)
    if reads:
        run.folder.path.mkdir()
        columns = {"prompt_id": [0, 1], "prompt": ["p", "q"], "response": ["a", "b"], "vowels": [0.2, 0.4]}
        pd.DataFrame(columns).to_parquet(run.folder.path / reads)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(Waits, match=waits_for):
        stage(run)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_locked_variant_is_refused_before_anything_is_written_to_it(world, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    command = soup_command(world, tmp_path / "runs")
    assert main(command) == 0
    runs = {json.loads((run / "training.json").read_text())["mode"]: run for run in (tmp_path / "runs").glob("run-*")}
    variant, soup = runs["scalarized"], runs["soup"]
    for path in [path for path in variant.iterdir() if path.is_file()]:
        path.unlink()
    (soup / "training.json").unlink()
    capfd.readouterr()
    with FileLock(variant / ".lock"):
        assert main(command) == 2
        assert [path.name for path in variant.iterdir() if path.is_file()] == [".lock"]
    error = capfd.readouterr().err
    assert f"mapft: {variant} is locked by another process; " in error
    assert len(error.splitlines()) == 1
