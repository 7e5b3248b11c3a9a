"""The estimated duration. Truth: hand arithmetic, the order of the output, and the samples of a run without it."""

import re

import pandas as pd
import pytest

from mapft.cli import main
from mapft.commands.composed import with_config
from mapft.config import PolicyConfig
from mapft.pipeline import duration
from mapft.pipeline.artifacts import Speed, read_speed
from mapft.pipeline.duration import durations, evaluation_seconds
from mapft.pipeline.prompts import render_prompts
from mapft.pipeline.run import Run
from mapft.pipeline.sample import sample
from tests import worlds
from tests.worlds import SMALL, own

CLOCK = r"(\d+):(\d\d):(\d\d)"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return worlds.build(tmp_path_factory.mktemp("world"))


def configured(arguments):
    configs = []
    with_config(arguments, configs.append)
    return configs[0]


def seconds(hours: str, minutes: str, rest: str) -> int:
    return 3600 * int(hours) + 60 * int(minutes) + int(rest)


@pytest.mark.parametrize(
    ("more", "processes", "expected"),
    [
        # 1000 + 1920 responses; 1920 * (2 passes + 3 epochs * 2 passes)
        ([], 1, (2920, 5840, 4 * 8 * 1920)),
        # log p0 of the pilot's 1000; each epoch 8 stored ones per 16, and 2 passes over the pilot: 3 * 2880 + 2000
        # updates of 3 passes
        (
            ["replay_batch=8", "warm_start_passes=2", "gradient_checkpointing=true"],
            1,
            (2920, 5840, 4 * (2 * 1920 + 1000 + 3 * 10_640)),
        ),
        # of two processes; 3 * 1440 + 1000 updates
        (["replay_batch=8", "warm_start_passes=2"], 2, (1960, 3920, 4 * (2 * 960 + 500 + 2 * 5320))),
    ],
)
def test_the_parts_are_counts_times_seconds_per_response(world, tmp_path, monkeypatch, more, processes, expected):
    """1 s to generate a response, 2 s to score it, 4 s for a pass; 16 in an optimizer step, 32 in an iteration."""
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    trainer = [f"trainer.{setting}" for setting in ("num_ppo_epochs=3", "replay_batch=0", *more)]
    config = configured(own(world, tmp_path, *SMALL, *trainer))
    parts = durations(config, Speed(sampling=1.0, scoring=2.0, forward=4.0), pilot=1000, rollouts=1900, new=1000)
    assert list(parts) == ["sampling", "scoring", "training"]
    assert tuple(parts.values()) == pytest.approx(expected)


def test_a_pilot_that_another_run_has_sampled_takes_no_time(world, tmp_path, monkeypatch, capfd):
    """2 s to generate a response, no time for the rest."""
    monkeypatch.setattr(duration, "speed", lambda run, rows: Speed(2.0, 0.0, 0.0))
    first, second = (
        Run(configured(own(world, tmp_path, *SMALL, palette=f"+palette.quantiles.vowels={q}"))) for q in (0.6, 0.7)
    )
    printed = []
    for run in (first, second):
        render_prompts(run)
        duration.print_duration(run, {})
        printed.append(seconds(*re.search(f"sampling {CLOCK}", capfd.readouterr().out).groups()))
        sample(run)
    pilot = len(first.prompts.pilot) * first.config.sampling.samples_per_prompt
    assert printed[0] - printed[1] == 2 * pilot


def test_decoding_takes_as_long_as_its_candidates(world, tmp_path):
    """6 held-out prompts, 4 responses or 2 of 16 candidates each; 1 s to generate, 2 s to score, 4 s for a pass."""
    run, speed = Run(configured(own(world, tmp_path, *SMALL)), quiet=True), Speed(1.0, 2.0, 4.0)
    render_prompts(run)
    assert len(run.prompts.held_out) == 6
    assert evaluation_seconds(run, None, speed) == 24 * 3
    assert evaluation_seconds(run, PolicyConfig(adapter="a"), speed) == 24 * (3 + 8)
    assert evaluation_seconds(run, PolicyConfig(candidates=16, samples_per_prompt=2), speed) == 12 * 16 * 3


def test_a_run_begins_with_its_duration_and_shows_base_and_tuned_before_decoding(world, tmp_path, capfd):
    more = ["evaluation=decoding", "evaluation.policies.decoding.candidates=4", "evaluation.bootstrap=100"]
    arguments = own(world, tmp_path / "runs", *SMALL, *more)
    assert main(["run", *arguments]) == 0
    printed = capfd.readouterr().out
    parts = [rf"{name} {CLOCK}" for name in ("sampling", "scoring", "training", "evaluation")]
    order = [
        rf"This run takes about {CLOCK}: ",
        "pilot: sampling: ",
        "base policy: ",
        "tuned policy: ",
        "Predicted and realized",
        rf"decoding: 4 candidates for each of 6 responses, about {CLOCK}\.",
        "decoding policy: 6 of 6",
        "Predicted and realized",
    ]
    assert re.search(".*".join(order), printed, re.S)
    total, listed = re.search(rf"This run takes about ({CLOCK}): (.*)\.", printed).group(1, 5)
    named = [seconds(*re.search(part, listed).groups()) for part in parts if re.search(part, listed)]
    assert len(listed.split(", ")) == len(named) > 0
    assert abs(sum(named) - seconds(*total.split(":"))) <= 2  # rounding
    [folder] = (tmp_path / "runs").glob("run-*")
    speed = read_speed(Run(configured([*arguments, f"run_dir={folder}"]), quiet=True).folder)
    assert min(speed.sampling, speed.scoring, speed.forward) > 0
    assert main(["run", *arguments]) == 0
    assert "takes about" not in capfd.readouterr().out
    assert main(["sample", *own(world, tmp_path / "other", *SMALL)]) == 0
    assert "takes about" not in capfd.readouterr().out
    [other] = (tmp_path / "other").glob("run-*")
    pd.testing.assert_frame_equal(*(pd.read_parquet(path / "samples.parquet") for path in (folder, other)))


def test_the_training_of_a_mode_without_rollouts_is_left_out(world, tmp_path, capfd):
    assert main(["train", *own(world, tmp_path, *SMALL, "mode=dpo")]) == 0
    printed = capfd.readouterr().out
    assert re.search(
        r"This run takes about .*, and the training, whose length mode=dpo does not tell before\.", printed
    )
