"""The estimated duration. Truth: hand arithmetic, the order of the output, and the samples of a run without it."""

import re

import pytest

from mapft.cli import main
from mapft.commands.composed import with_config
from mapft.config import PolicyConfig
from mapft.pipeline.artifacts import Speed
from mapft.pipeline.duration import durations, evaluation_seconds
from mapft.pipeline.run import Run
from tests import worlds
from tests.worlds import SMALL, own


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return worlds.build(tmp_path_factory.mktemp("world"))


def configured(arguments):
    configs = []
    with_config(arguments, configs.append)
    return configs[0]


@pytest.mark.parametrize(
    ("more", "processes", "expected"),
    [
        # 1000 + 1920 responses; 1920 * (2 passes + 3 epochs * 2 passes)
        ([], 1, (2920, 5840, 4 * 8 * 1920)),
        # each epoch 8 stored ones per 16, and 2 passes over the pilot's 1000: 3 * 2880 + 2000 updates of 3 passes
        (
            ["replay_batch=8", "warm_start_passes=2", "gradient_checkpointing=true"],
            1,
            (2920, 5840, 4 * (2 * 1920 + 3 * 10_640)),
        ),
        # of two processes; 3 * 1440 + 1000 updates
        (["replay_batch=8", "warm_start_passes=2"], 2, (1960, 3920, 4 * (2 * 960 + 2 * 5320))),
    ],
)
def test_the_parts_are_counts_times_seconds_per_response(world, tmp_path, monkeypatch, more, processes, expected):
    """1 s to generate a response, 2 s to score it, 4 s for a pass; 16 in an optimizer step, 32 in an iteration."""
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    trainer = [f"trainer.{setting}" for setting in ("num_ppo_epochs=3", "replay_batch=0", *more)]
    config = configured(own(world, tmp_path, *SMALL, *trainer))
    parts = durations(config, Speed(sampling=1.0, scoring=2.0, forward=4.0), pilot=1000, rollouts=1900)
    assert list(parts) == ["sampling", "scoring", "training"]
    assert tuple(parts.values()) == pytest.approx(expected)


def test_decoding_takes_as_long_as_its_candidates(world, tmp_path):
    """6 held-out prompts, 4 responses or 2 of 16 candidates each; 1 s to generate, 2 s to score, 4 s for a pass."""
    run, speed = Run(configured(own(world, tmp_path, *SMALL)), quiet=True), Speed(1.0, 2.0, 4.0)
    assert len(run.prompts.held_out) == 6
    assert evaluation_seconds(run, None, speed) == 24 * 3
    assert evaluation_seconds(run, PolicyConfig(adapter="a"), speed) == 24 * (3 + 8)
    assert evaluation_seconds(run, PolicyConfig(candidates=16, samples_per_prompt=2), speed) == 12 * 16 * 3


def test_the_training_of_a_mode_without_rollouts_is_left_out(world, tmp_path, capfd):
    assert main(["train", *own(world, tmp_path, *SMALL, "mode=dpo")]) == 0
    printed = capfd.readouterr().out
    assert re.search(
        r"This run takes about .*, and the training, whose length mode=dpo does not tell before\.", printed
    )
