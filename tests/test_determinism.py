"""The same seed gives the same run. Truth: two runs in two folders, byte for byte, and every seed that was derived."""

from collections import Counter
from hashlib import blake2b

import pandas as pd
import pytest

from mapft.cli import main
from mapft.utils import seeds as seeding
from mapft.utils.seeds import derive_seed
from tests import worlds
from tests.worlds import SMALL, own

ARTIFACTS = [
    "samples.parquet",
    "scores.parquet",
    "solution.json",
    "adapter/adapter_model.safetensors",
    "refinement.json",
    "evaluation_base.parquet",
    "evaluation_tuned.parquet",
    "evaluation_decoding.parquet",
    "report.csv",
]
SETTINGS = [*SMALL, "refine.every=2", "evaluation=decoding", "evaluation.policies.decoding.candidates=4"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return worlds.build(tmp_path_factory.mktemp("world"))


def run(world, output, *more: str):
    assert main(["run", *own(world, output, *SETTINGS, f"run_dir={output / 'run'}", *more)]) == 0
    return output / "run"


def test_every_stage_gives_the_same_again(world, tmp_path):
    one, two = (run(world, tmp_path / name) for name in ("one", "two"))
    for name in ARTIFACTS:
        assert (one / name).read_bytes() == (two / name).read_bytes(), name


def test_another_seed_gives_other_draws_in_every_stage(world, tmp_path):
    one, two = run(world, tmp_path / "one"), run(world, tmp_path / "two", "seed=1")
    for name in ("samples", "evaluation_base", "evaluation_tuned"):
        responses = [pd.read_parquet(folder / f"{name}.parquet")["response"] for folder in (one, two)]
        assert not responses[0].equals(responses[1]), name


def test_no_stream_of_random_numbers_serves_two_draws(world, tmp_path, monkeypatch):
    """Pilot, rollouts, critic, held-out and decoding draws of one run all begin at seeds of their own."""
    asked: Counter[bytes] = Counter()

    def recorded(text: bytes, **size: int):
        asked[text] += 1
        return blake2b(text, **size)

    monkeypatch.setattr(seeding, "blake2b", recorded)
    run(world, tmp_path)
    draws = {text: times for text, times in asked.items() if b"'draw'" in text or b"'rollout'" in text}
    assert len(draws) >= 8, "one for the pilot, four rollouts, three policies"
    assert {text: times for text, times in draws.items() if times > 1} == {}
    assert len({blake2b(text, digest_size=8).digest() for text in asked}) == len(asked)


def test_processes_and_iterations_draw_from_their_own_streams():
    seeds = [derive_seed(0, "rollout", rank, iteration) for rank in range(64) for iteration in range(200)]
    assert len(set(seeds)) == len(seeds)
    assert derive_seed(0, "a", "b") != derive_seed(0, "ab") != derive_seed(0, "b", "a")
