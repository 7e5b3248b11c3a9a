"""Which settings name a run folder and a cache entry. Truth: the rules in mapft/config/identity.py."""

import dataclasses
import json
from pathlib import Path

import pytest

from mapft.commands.composed import with_config
from mapft.commands.settings import all_groups
from mapft.config import TrainerConfig, identity
from mapft.config.identity import VERSION, plain
from mapft.pipeline.prompts import render_prompts
from mapft.pipeline.run import Run
from tests import worlds
from tests.worlds import own

DEFAULTS = Path(__file__).with_name(f"defaults_{VERSION}.json")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return worlds.build(tmp_path_factory.mktemp("world"))


def run(world, output, *more: str) -> Run:
    configs = []
    with_config(own(world, output, *more), configs.append)
    return Run(configs[0])


def test_only_settings_that_differ_from_their_default_are_listed():
    assert identity(TrainerConfig()) == {}
    assert identity(TrainerConfig(kl_coef=0.5, learning_rate=1e-4)) == {"kl_coef": 0.5}


@pytest.mark.parametrize(
    "setting",
    [
        "trainer.logging_steps=7",
        "trainer.save_steps=3",
        "trainer.save_total_limit=5",
        "trainer.reward_retries=2",
        "trainer.micro_batch_size=2",
        "trainer.local_rollout_forward_batch_size=3",
        "trainer.gradient_checkpointing=true",
        "sampling.micro_batch_size=5",
        "launch.memory_gb=3",
        "mode.reward_models=offload",
        "tracking.project=other",
        "tracking=tensorboard",
        "launch.processes=4",
        "evaluation.prompts=5",
        "decoding.candidates=3",
        "comparison.candidates=3",
        "trainer.kl_coef=1.0",
        "+rewards.judge.label=0",
        "+rewards.judge.batch_tokens=100",
    ],
)
def test_settings_that_do_not_change_the_result_keep_the_folder(world, tmp_path, setting):
    assert run(world, tmp_path, setting).folder == run(world, tmp_path).folder


@pytest.mark.parametrize(
    "setting",
    ["seed=1", "trainer.kl_coef=0.5", "+rewards.judge.label=1", "sampling.batch_size=8", "mode=dpo"],
)
def test_settings_that_change_the_result_change_the_folder(world, tmp_path, setting):
    assert run(world, tmp_path, setting).folder != run(world, tmp_path).folder


def test_the_pilot_depends_on_model_prompts_and_sampling_alone(world, tmp_path):
    def identity(*more):
        a_run = run(world, tmp_path, *more)
        render_prompts(a_run)
        return a_run.sampling_identity

    pilot = identity()
    for same in ("palette.quantiles.vowels=0.9", "trainer.kl_coef=0.5", "+rewards.brief={kind: length}", "mode=dpo"):
        assert identity(same) == pilot, same
    for other in ("seed=1", "sampling.top_k=5", "data.pilot_prompts=3"):
        assert identity(other) != pilot, other


def test_config_json_records_the_identity_the_versions_and_all_settings(world, tmp_path):
    one = run(world, tmp_path, "trainer.kl_coef=0.5")
    with one.lock():
        record = json.loads(one.folder.config.read_text())
    replay = {"num_generations": 4, "replay_batch": 64, "replay_coef": 4.0}
    other = {"kl_coef": 0.5, "num_mini_batches": 4, "whiten_advantages": False}
    assert record["identity"]["trainer"] == replay | other  # conf/trainer/ppo.yaml
    assert record["identity"]["mode"] == {"name": "simultaneous"}
    assert record["config"]["trainer"]["gamma"] == 1.0
    assert {"torch", "transformers", "trl"} <= set(record["versions"])


def test_another_version_of_a_library_is_reported_when_a_run_continues(world, tmp_path, capfd):
    one = run(world, tmp_path)
    with one.lock():
        record = json.loads(one.folder.config.read_text())
    with run(world, tmp_path).lock():
        assert "other versions" not in capfd.readouterr().out
    record["versions"]["trl"] = "1.15.0"
    one.folder.config.write_text(json.dumps(record))
    with run(world, tmp_path).lock():
        assert "began with other versions (trl 1.15.0 -> " in capfd.readouterr().out.replace("\n", " ")


def test_a_changed_default_needs_a_new_version():
    """The defaults of this VERSION, setting by setting: an identity leaves them out, so they may not change under it.

    A new setting is added to the file; a changed default needs a new VERSION and a new file.
    """
    current = {
        f"{selected or group}.{field.name}": _default(field)
        for group, kinds in all_groups().items()
        for selected, kind in kinds.items()
        for field in dataclasses.fields(kind)
        if field.metadata.get("identity", True) and "range" in field.metadata
    }
    assert current == json.loads(DEFAULTS.read_text())


def _default(field):
    if field.default_factory is not dataclasses.MISSING:
        return plain(field.default_factory())
    return "required" if field.default is dataclasses.MISSING else plain(field.default)
