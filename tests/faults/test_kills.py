"""SIGKILL at random moments of every stage. Truth: the run that nobody disturbed, bit for bit."""

import json
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mapft.config.comparison import Method
from tests.faults.conftest import SEQUENTIAL
from tests.faults.victim import Victim, calls, files, kept_scores, same, settings, torn

# (stage, when it has begun, seconds that it takes about): kills come at random moments of it.
STAGES = {
    "sample": (lambda run, said: "pilot: sampling" in said, 0.4),
    "score": (lambda run, said: "pilot: scoring vowels" in said, 0.5),
    "train": (lambda run, said: any(run.rglob("logs.jsonl")), 1.5),
    "evaluate": (lambda run, said: (run / "training.json").exists(), 2.0),
    "export": (lambda run, said: (run / "report.html").exists() and "Predicted and realized" in said, 0.3),
}
SCHEDULE = ["sample", "sample", "score", "score", "train", "train", "train", "evaluate", "evaluate", "export"]


def at(output: Path) -> str:
    """The stage that is not done yet."""
    done = {"sample": "samples.parquet", "score": "scores.parquet", "train": "training.json"}
    done |= {"evaluate": "evaluation.json", "export": "merged/config.json"}
    return next((stage for stage, artifact in done.items() if not (output / "run" / artifact).exists()), "end")


def after(stage: str) -> list[str]:
    """What `at` says when the stage is done."""
    return [*list(STAGES)[list(STAGES).index(stage) + 1 :], "end"]


@pytest.mark.slow
def test_killed_runs_end_as_if_nobody_had(life, undisturbed, tmp_path):
    world, runs = undisturbed
    mode, model = runs["sequential" if life % 2 else "simultaneous"]
    rng, output, log = random.Random(life), tmp_path / "out", tmp_path / "calls"
    overrides, hits, kept = [*settings(world, output), *mode], [], []
    for stage in SCHEDULE:
        if at(output) == "end":
            break
        if at(output) in after(stage):  # an earlier kill came late, and the stage is done
            stage = at(output)
        begun, seconds = STAGES[stage]

        def ready(victim, stage=stage, begun=begun):
            return begun(output / "run", victim.said) or at(output) in after(stage)

        if Victim("export", overrides, log).kill_when(ready, rng.uniform(0, seconds)):
            hits.append(at(output))
        assert torn(output) == []
        kept.append((len(calls(log)), kept_scores(output)))
    victim = Victim("export", overrides, log)
    assert victim.wait() == 0, victim.said[-3000:]
    print(f"life {life}: killed {len(hits)} times, in {', '.join(hits)}")
    assert len(hits) >= 8
    assert torn(output) == []
    left = [path.name for path in output.rglob("*") if path.name.endswith("tmp")]
    assert left == [], "a killed write leaves nothing behind once the run is done"
    same(output / "run", model)
    assert (output / "run/merged/model.safetensors").read_bytes() == (model / "merged/model.safetensors").read_bytes()
    asked = calls(log)
    for number, on_disk in kept:
        assert not on_disk & set(asked[number:]), "scores that were kept were asked for again"


def whole_and_killed(command: str, overrides: Callable[[Path], list[str]], folder: Path) -> list[Path]:
    """Output folders of an undisturbed command, and of one that is killed until one of its processes ends by itself.

    Each process is killed at most 15 % of the undisturbed duration after its first new file.
    """
    outputs, logs, rng = [folder / "whole", folder / "killed"], [folder / "1", folder / "2"], random.Random(0)
    whole, begun = Victim(command, overrides(outputs[0]), logs[0]), time.monotonic()
    assert whole.wait() == 0, whole.said[-3000:]
    kills, longest, before = 0, 0.15 * (time.monotonic() - begun), files(outputs[1])
    while Victim(command, overrides(outputs[1]), logs[1]).kill_when(
        lambda _, before=before: files(outputs[1]) - before, rng.uniform(0, longest)
    ):
        assert torn(outputs[1]) == []
        kills, before = kills + 1, files(outputs[1])
    asked, least = len(calls(logs[1])), len(calls(logs[0]))
    print(f"{command}: killed {kills} times, {asked} calls of the score for {least}")
    assert kills >= 5
    assert asked <= least + 2 * kills, "a process goes on where the one before it was killed"
    return outputs


@pytest.mark.slow
def test_a_killed_comparison_ends_as_if_nobody_had(undisturbed, tmp_path):
    """Of all methods."""
    world, _ = undisturbed
    sizes = ["trainer.total_episodes=64", "comparison={random_weights: 1, soup_steps: 2, candidates: 4}"]

    def overrides(output: Path) -> list[str]:
        return [*settings(world, output), *SEQUENTIAL, *sizes]

    outputs = whole_and_killed("compare", overrides, tmp_path)
    one, two = (json.loads((output / "run/comparison/points.json").read_text()) for output in outputs)
    assert two == one
    assert one["failed"] == {}
    assert {point["family"] for point in one["points"].values()} == {"base", *map(str, Method)}


@pytest.mark.slow
def test_a_killed_sweep_ends_as_if_nobody_had(undisturbed, tmp_path):
    world, _ = undisturbed

    def overrides(output: Path) -> list[str]:
        own = [each for each in settings(world, output) if not each.startswith(("run_dir=", "+palette."))]
        return ["-m", *own, "palette.name=swept", "+palette.quantiles.vowels=0.6,0.7"]

    whole, killed = (sorted(each.glob("run-*")) for each in whole_and_killed("run", overrides, tmp_path))
    assert len(whole) == 2
    for one, two in zip(whole, killed, strict=True):
        same(one, two)
