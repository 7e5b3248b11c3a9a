"""Truth: exact enumeration of the tabular world, where p_lam is known for every response; the uninterrupted run."""

import gc
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

import mapft.sampling.responses
from mapft.config import AdapterConfig, ModelConfig, PaletteConfig, RefineConfig, SamplingConfig, TrainerConfig
from mapft.config.run_folder import RunFolder
from mapft.palette import ScoreMatrix
from mapft.rewards import parse
from mapft.rewards.loader import RewardModels
from mapft.sampling.models import load_policy
from mapft.sampling.prompts import PromptRow
from mapft.sampling.split import PromptSplit
from mapft.sampling.tokens import render
from mapft.tracking.lines import JsonLines
from mapft.training.inputs import TrainingInputs
from mapft.training.modes import sequential
from mapft.training.modes.sequential import Cycle, Sequential, Visit, read_visits, solve_increment, stop_reason
from tests.configs import make_config
from tests.ppo import tabular
from tests.training.inputs import quiet_progress

TASTE = np.random.default_rng(5).normal(size=(tabular.STEPS, len(tabular.WORDS)))
OTHER = np.random.default_rng(6).normal(size=(tabular.STEPS, len(tabular.WORDS)))


def first(prompts, completions):
    """The sum of a number for each word at each place."""
    words = [text.split() for text in completions]
    return [sum(TASTE[t, tabular.WORDS.index(word)] for t, word in enumerate(text)) / 1.5 for text in words]


def second(prompts, completions):
    """Correlated with the first, so that a policy trained for one raises the other."""
    words = [text.split() for text in completions]
    other = [sum(OTHER[t, tabular.WORDS.index(word)] for t, word in enumerate(text)) / 1.5 for text in words]
    return [0.5 * a + 0.87 * b for a, b in zip(first(prompts, completions), other, strict=True)]


def texts() -> list[str]:
    return tabular.tokenizer().batch_decode(tabular.responses(), skip_special_tokens=True)


def scores_PYV() -> np.ndarray:
    table = np.stack([first([], texts()), second([], texts())], axis=-1)
    return np.broadcast_to(table, (len(tabular.PROMPTS), *table.shape))


class World:
    """The tabular world on disk, with a palette whose multipliers are known: the levels of p_lam itself."""

    def __init__(self, folder: Path, lam: dict[str, float]):
        self.model = folder / "model"
        tabular.model().save_pretrained(self.model)
        tabular.tokenizer().save_pretrained(self.model)
        self.lam = lam
        log_p0 = tabular.log_probs(tabular.model())
        self.log_p_lam = tabular.tilted(log_p0, scores_PYV() @ list(lam.values()))
        levels = np.einsum("py,pyv->v", np.exp(self.log_p_lam), scores_PYV()) / len(tabular.PROMPTS)
        p0 = np.exp(log_p0) / len(tabular.PROMPTS)
        mean = np.einsum("py,pyv->v", p0, scores_PYV())
        sd = np.sqrt(np.einsum("py,pyv->v", p0, (scores_PYV() - mean) ** 2))
        self.targets, self.base, self.sd = (
            dict(zip(lam, numbers.tolist(), strict=True)) for numbers in (levels, mean, sd)
        )

    def cycle(self, run: Path, trainer: dict, refine: dict, seed: int = 0, **mode) -> Cycle:
        """Of the values in self.targets, whose scores are functions of this module."""
        config = make_config(
            model=ModelConfig(path=str(self.model)),
            adapter=AdapterConfig(r=16, alpha=32),
            rewards={name: {} for name in self.targets},
            palette=PaletteConfig(absolute=self.targets),
            sampling=SamplingConfig(max_new_tokens=tabular.STEPS, samples_per_prompt=512),
            mode=Sequential(name="sequential", **mode),
            trainer=TrainerConfig(**trainer),
            refine=RefineConfig(**refine),
            seed=seed,
        )
        rows = render([PromptRow(prompt) for prompt in tabular.PROMPTS], tabular.tokenizer())
        inputs = TrainingInputs(
            config=config,
            scores=parse({name: {"kind": "function", "target": f"{__name__}:{name}"} for name in self.targets}),
            samples=pd.DataFrame({"prompt_id": [], **{name: [] for name in self.targets}}),
            matrix=SimpleNamespace(base=self.base, sd=self.sd),
            solution=SimpleNamespace(targets=self.targets),
            prompts=PromptSplit(rows, rows, []),
            folder=RunFolder(run),
            progress=quiet_progress,
            train_variant=None,
        )
        return Cycle(config.mode, inputs)

    def log_probs(self, adapter: Path) -> np.ndarray:
        return tabular.log_probs(load_policy(ModelConfig(path=str(self.model), adapter=str(adapter)))[0])


TRAINER = {"per_device_train_batch_size": 128, "num_mini_batches": 1, "num_ppo_epochs": 2, "learning_rate": 5e-3}
QUIET = {"save_steps": 1000, "logging_steps": 1000}


@pytest.mark.slow
def test_the_cycle_reaches_p_lam_and_lowers_a_multiplier(tmp_path):
    """Alone, the first value gets a lam of about 1, which must fall to .3 once the second's is 1."""
    world = World(tmp_path, {"first": 0.3, "second": 1.0})
    mode = {"rounds": 3, "visit_episodes": 32_768}
    world.cycle(tmp_path / "run", TRAINER | QUIET, {"every": 16, "start": 0.25}, **mode).train()
    visits = read_visits(RunFolder(tmp_path / "run"))
    assert max(visit.lam for visit in visits if visit.value == "first") > 0.8
    lam = {visit.value: visit.lam for visit in visits}
    for name, truth in world.lam.items():
        assert lam[name] == pytest.approx(truth, abs=0.05)
    assert tabular.kl(world.log_probs(tmp_path / "run" / "adapter"), world.log_p_lam) < 0.03


@pytest.mark.slow
def test_without_the_correction_the_cycle_stops_at_the_wrong_point(tmp_path, monkeypatch):
    """Theorem 5 as stated: no increment below 0."""
    increment = sequential.increment

    def without_correction(matrix, palette, lam):
        step = increment(matrix, palette, lam)
        return replace(step, lam={name: max(step.lam[name], lam[name]) for name in lam})

    monkeypatch.setattr(sequential, "increment", without_correction)
    world = World(tmp_path, {"first": 0.3, "second": 1.0})
    mode = {"rounds": 2, "visit_episodes": 8192}
    world.cycle(tmp_path / "run", TRAINER | QUIET, {"every": None}, **mode).train()
    lam = {visit.value: visit.lam for visit in read_visits(RunFolder(tmp_path / "run"))}
    assert lam["first"] > 0.8
    assert tabular.kl(world.log_probs(tmp_path / "run" / "adapter"), world.log_p_lam) > 0.06


def flat(prompts, completions):
    """A constant score."""
    return [0.25] * len(completions)


def by_prompt(prompts, completions):
    """A score that depends on the prompt alone, so no policy changes its level."""
    return [float(tabular.PROMPTS.index(prompt)) for prompt in prompts]


@pytest.mark.parametrize(("score", "end"), [(flat, "is met within"), (by_prompt, "or more; missed: by_prompt")])
def test_a_value_that_no_policy_changes_is_skipped(tmp_path, score, end):
    world = World(tmp_path, {"first": 0.3, "second": 0.0})
    values = [float(number) for number in score(tabular.PROMPTS, ["a"] * 8)]
    world.targets = {"first": -5.0, score.__name__: values[0] if score is flat else max(values)}
    world.base = {"first": 0.0, score.__name__: float(np.mean(values))}
    world.sd = {"first": 1.0, score.__name__: float(np.std(values))}
    mode = SHORT | {"rounds": 9, "tolerance": 0.5, "smallest_step": 0.0}
    world.cycle(tmp_path / "run", TRAINER | QUIET, {"every": None}, **mode).train()
    record = json.loads((tmp_path / "run" / "sequential.json").read_text())
    assert end in record["end"]
    assert all(visit["skipped"] for visit in record["visits"])


def visit(value, violation, skipped, lam=0.0):
    return Visit(
        value, "visits/x", violation, violation, 0.01, lam, lam, 1.0, 100.0, violation <= 0.03, skipped, lam, 1.0
    )


def test_the_cycle_ends_after_a_skipped_round_or_all_rounds():
    mode, order = Sequential(name="sequential", rounds=2, tolerance=0.03), ["a", "b"]
    trained, met, small = visit("a", 0.5, False), visit("b", 0.01, True), visit("a", 0.1, True)
    assert stop_reason([], order, mode) == ""
    assert stop_reason([trained, met], order, mode) == ""
    assert stop_reason([trained, met, met], order, mode) == (
        "Every target is met within 0.03 sd, or within the standard error of the samples."
    )
    assert stop_reason([trained, met, small], order, mode) == (
        "No visit would change a multiplier by 0.02 per sd or more; missed: a."
    )
    assert stop_reason([met, trained, met], order, mode) == ""
    assert stop_reason([trained] * 4, order, mode) == "All 2 rounds are complete."


def test_a_visit_raises_or_lowers_its_multiplier_to_the_target_but_not_below_0():
    """Gaussian scores of variance 1: delta = c - mean, but never below -lam."""
    scores_N = np.random.default_rng(0).standard_normal((40_000, 1))
    rows = ScoreMatrix(scores_N, ["a"], np.arange(40_000) // 40)
    assert solve_increment(rows, 0.5, 1.0, before=0.0)["requested"] == pytest.approx(0.5, abs=0.03)
    assert solve_increment(rows, -0.5, 1.0, before=2.0)["requested"] == pytest.approx(1.5, abs=0.03)
    over = solve_increment(rows, -0.5, 1.0, before=0.2)
    assert over["requested"] == 0.0
    assert over["noise_sd"] == pytest.approx(0.005, rel=0.05)
    assert over["violation_sd"] == pytest.approx(0.2, abs=1e-9)
    assert solve_increment(rows, -0.5, 1.0, before=0.0)["violation_sd"] == 0.0


SHORT = {"rounds": 2, "visit_episodes": 512, "tolerance": 0.0, "smallest_step": 0.0}
RESUMED = TRAINER | {"save_steps": 2, "logging_steps": 1}


@pytest.mark.parametrize("moment", ["sampling", "training", "between"])
def test_a_killed_run_continues_to_the_same_visits_and_adapter(tmp_path, monkeypatch, moment):
    """Killed in the third visit: while it samples, while it trains, or before it is recorded."""
    world = World(tmp_path, {"first": 0.3, "second": 1.0})
    world.cycle(tmp_path / "whole", RESUMED, {"every": 1}, **SHORT).train()
    cut = world.cycle(tmp_path / "cut", RESUMED, {"every": 1}, **SHORT)
    owner, name = {
        "sampling": (mapft.sampling.responses, "generate"),
        "training": (JsonLines, "on_log"),
        "between": (sequential, "write_json"),
    }[moment]
    original, calls = getattr(owner, name), []

    def stop(*args, **kwargs):
        calls.append(1)
        # sampling: the third visit's. training: after the checkpoint of step 4. between: the record after its decision
        if len(calls) == {"sampling": 3, "training": 22, "between": 6}[moment]:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, stop)
        with pytest.raises(KeyboardInterrupt):
            cut.train()
    assert len(read_visits(RunFolder(tmp_path / "cut"))) == 2
    cut.train()
    visits = [
        [replace(each, seconds=0.0) for each in read_visits(RunFolder(tmp_path / run))] for run in ("whole", "cut")
    ]
    assert visits[0] == visits[1]
    assert len(visits[0]) == 4
    whole, again = (load_file(tmp_path / run / "adapter" / "adapter_model.safetensors") for run in ("whole", "cut"))
    assert all(torch.equal(whole[key], again[key]) for key in whole)


def test_at_most_one_policy_and_one_score_are_in_memory(tmp_path, monkeypatch):
    """Counted whenever a policy is loaded and whenever responses are scored."""
    counts = {"policies": [], "scores": []}

    def alive(kind):
        gc.collect(0)
        return sum(type(each).__name__ == kind for each in gc.get_objects())

    def load(*args):
        counts["policies"].append(alive("LlamaForCausalLM"))
        return load_policy(*args)

    score = RewardModels.score
    monkeypatch.setattr("mapft.sampling.models.load_policy", load)
    monkeypatch.setattr("mapft.training.fit.load_policy", load)
    monkeypatch.setattr(
        RewardModels, "score", lambda *rest: (score(*rest), counts["scores"].append(alive("FunctionScorer")))[0]
    )
    world = World(tmp_path, {"first": 0.3, "second": 1.0})
    gc.collect()
    before = alive("LlamaForCausalLM")
    world.cycle(tmp_path / "run", RESUMED, {"every": 1}, **SHORT).train()
    assert len(counts["policies"]) == 8
    assert set(counts["policies"]) == {before}
    assert set(counts["scores"]) == {1}


def test_a_palette_that_p0_meets_trains_nothing(tmp_path):
    world = World(tmp_path, {"first": 0.3, "second": 1.0})
    world.targets = {"first": -5.0, "second": -5.0}
    world.cycle(tmp_path / "run", TRAINER | QUIET, {"every": None}).train()
    assert [visit.skipped for visit in read_visits(RunFolder(tmp_path / "run"))] == [True, True]
    np.testing.assert_allclose(
        world.log_probs(tmp_path / "run" / "adapter"), tabular.log_probs(tabular.model()), atol=1e-5
    )
