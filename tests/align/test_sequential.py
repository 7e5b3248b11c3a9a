"""Truth: exact enumeration of the tabular world, where p_lam is known for every response; the uninterrupted run."""

import gc
import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mapft.align import fit, sequential
from mapft.align.sequential import Sequential, Stage, decide, ended, read_stages
from mapft.config import (
    AdapterConfig,
    ComparisonConfig,
    Config,
    DataConfig,
    DecodingConfig,
    DualConfig,
    EvaluationConfig,
    LaunchConfig,
    ModelConfig,
    PaletteConfig,
    RefineConfig,
    SamplingConfig,
    SequentialMode,
    TrackingConfig,
    TrainerConfig,
)
from mapft.palette import RewardMatrix
from mapft.rewards import parse
from mapft.rewards.loader import RewardModels
from mapft.sampling.models import load_policy
from mapft.tracking.lines import JsonLines
from tests.ppo import tabular

TASTE = np.random.default_rng(5).normal(size=(tabular.STEPS, len(tabular.WORDS)))
OTHER = np.random.default_rng(6).normal(size=(tabular.STEPS, len(tabular.WORDS)))


def first(prompts, completions):
    """A taste for each word at each place."""
    words = [text.split() for text in completions]
    return [sum(TASTE[t, tabular.WORDS.index(word)] for t, word in enumerate(text)) / 1.5 for text in words]


def second(prompts, completions):
    """Much like the first, so that what is done for one raises the other."""
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
        self.targets, self.sd = dict(zip(lam, levels.tolist(), strict=True)), dict(zip(lam, sd.tolist(), strict=True))

    def sequential(self, run: Path, trainer: dict, refine: dict, **mode) -> Sequential:
        config = Config(
            model=ModelConfig(path=str(self.model)),
            adapter=AdapterConfig(r=16, alpha=32),
            data=DataConfig(path="prompts.jsonl"),
            rewards={name: {} for name in self.lam},
            palette=PaletteConfig(absolute=self.targets),
            sampling=SamplingConfig(max_new_tokens=tabular.STEPS, samples_per_prompt=512),
            dual=DualConfig(),
            mode=SequentialMode(name="sequential", **mode),
            trainer=TrainerConfig(**trainer),
            refine=RefineConfig(**refine),
            decoding=DecodingConfig(),
            evaluation=EvaluationConfig(),
            comparison=ComparisonConfig(),
            tracking=TrackingConfig(),
            launch=LaunchConfig(name="cpu"),
        )
        kinds = parse({name: {"kind": "function", "target": f"{__name__}:{name}"} for name in self.lam})
        quiet = lambda: nullcontext(lambda name, done, total: None)  # noqa: E731
        return Sequential(config, kinds, self.targets, self.sd, tabular.PROMPTS, run, quiet)

    def log_probs(self, adapter: Path) -> np.ndarray:
        return tabular.log_probs(load_policy(ModelConfig(path=str(self.model), adapter=str(adapter)))[0])


TRAINER = {"per_device_train_batch_size": 128, "num_mini_batches": 1, "num_ppo_epochs": 2, "learning_rate": 5e-3}
QUIET = {"save_steps": 1000, "logging_steps": 1000}


@pytest.mark.slow
def test_reaches_p_lam_and_lowers_a_multiplier(tmp_path):
    """The first value is overshot alone (lam about 1) and must come down to .3 once the second has been raised to 1."""
    world = World(tmp_path, {"first": 0.3, "second": 1.0})
    mode = {"rounds": 3, "stage_episodes": 32_768}
    world.sequential(tmp_path / "run", TRAINER | QUIET, {"every": 16}, **mode).train()
    stages = read_stages(tmp_path / "run")
    assert max(stage.lam for stage in stages if stage.value == "first") > 0.8
    lam = {stage.value: stage.lam for stage in stages}
    for name, truth in world.lam.items():
        assert lam[name] == pytest.approx(truth, abs=0.05)
    assert tabular.kl(world.log_probs(tmp_path / "run" / "adapter"), world.log_p_lam) < 0.03


@pytest.mark.slow
def test_without_the_correction_the_cycle_stops_at_the_wrong_point(tmp_path, monkeypatch):
    """The literal theorem: no increment below 0."""
    right = sequential.refine
    wrong = lambda rows, palette, lam: replace(  # noqa: E731
        found := right(rows, palette, lam), lam={name: max(found.lam[name], lam[name]) for name in lam}
    )
    monkeypatch.setattr(sequential, "refine", wrong)
    world = World(tmp_path, {"first": 0.3, "second": 1.0})
    mode = {"rounds": 2, "stage_episodes": 8192}
    world.sequential(tmp_path / "run", TRAINER | QUIET, {"every": None}, **mode).train()
    lam = {stage.value: stage.lam for stage in read_stages(tmp_path / "run")}
    assert lam["first"] > 0.8
    assert tabular.kl(world.log_probs(tmp_path / "run" / "adapter"), world.log_p_lam) > 0.06


def flat(prompts, completions):
    """A score that is always the same."""
    return [0.25] * len(completions)


def of_prompts(prompts, completions):
    """A score that no policy can move."""
    return [float(tabular.PROMPTS.index(prompt)) for prompt in prompts]


@pytest.mark.parametrize(("still", "end"), [(flat, "is kept within"), (of_prompts, "though it misses of_prompts")])
def test_a_value_that_nothing_moves_is_passed_over(tmp_path, still, end):
    world = World(tmp_path, {"first": 0.3, "second": 0.0})
    mode = SHORT | {"rounds": 9, "tolerance": 0.5, "smallest_step": 0.0}
    sequence = world.sequential(tmp_path / "run", TRAINER | QUIET, {"every": None}, **mode)
    values = [float(score) for score in still(tabular.PROMPTS, ["a"] * 8)]
    targets = {"first": -5.0, still.__name__: values[0] if still is flat else max(values)}
    kinds = parse({name: {"kind": "function", "target": f"{__name__}:{name}"} for name in targets})
    sd = {"first": 1.0, still.__name__: float(np.std(values))}
    replace(sequence, targets=targets, sd=sd, scores=kinds).train()
    record = json.loads((tmp_path / "run" / "sequential.json").read_text())
    assert end in record["end"]
    assert all(stage["skipped"] for stage in record["stages"])


def stage(value, violation, skipped, lam=0.0):
    return Stage(
        value, "stages/x", violation, violation, 0.01, lam, lam, 1.0, 100.0, violation <= 0.03, skipped, lam, 1.0
    )


def test_it_ends_when_a_whole_round_was_skipped_or_the_rounds_are_spent():
    mode, order = SequentialMode(name="sequential", rounds=2, tolerance=0.03), ["a", "b"]
    trained, kept, small = stage("a", 0.5, False), stage("b", 0.01, True), stage("a", 0.1, True)
    assert ended([], order, mode) == ""
    assert ended([trained, kept], order, mode) == ""
    assert ended([trained, kept, kept], order, mode) == (
        "Every value is kept within 0.03 sd, or within the standard error of the samples."
    )
    assert ended([trained, kept, small], order, mode) == (
        "No stage would change a multiplier by 0.02 per sd, though it misses a."
    )
    assert ended([kept, trained, kept], order, mode) == ""
    assert ended([trained] * 4, order, mode) == "All rounds (2) are spent."


def test_a_stage_asks_for_what_its_value_lacks_and_gives_back_what_it_has_too_much():
    """Gaussian scores of variance 1: delta = c - mean, but never below -lam."""
    scores_N = np.random.default_rng(0).standard_normal((40_000, 1))
    rows = RewardMatrix(scores_N, ["a"], np.arange(40_000) // 40)
    assert decide(rows, 0.5, 1.0, before=0.0)["asked"] == pytest.approx(0.5, abs=0.03)
    assert decide(rows, -0.5, 1.0, before=2.0)["asked"] == pytest.approx(1.5, abs=0.03)
    over = decide(rows, -0.5, 1.0, before=0.2)
    assert over["asked"] == 0.0
    assert over["noise_sd"] == pytest.approx(0.005, rel=0.05)
    assert over["violation_sd"] == pytest.approx(0.2, abs=1e-9)
    assert decide(rows, -0.5, 1.0, before=0.0)["violation_sd"] == 0.0


SHORT = {"rounds": 2, "stage_episodes": 512, "tolerance": 0.0, "smallest_step": 0.0}
RESUMED = TRAINER | {"save_steps": 2, "logging_steps": 1}


@pytest.mark.parametrize("moment", ["sampling", "training", "between"])
def test_a_killed_run_goes_on_to_the_same_stages_and_adapter(tmp_path, monkeypatch, moment):
    """Killed in the third stage: while it samples, while it trains, or after it, before that is written down."""
    world = World(tmp_path, {"first": 0.3, "second": 1.0})
    world.sequential(tmp_path / "whole", RESUMED, {"every": 1}, **SHORT).train()
    cut = world.sequential(tmp_path / "cut", RESUMED, {"every": 1}, **SHORT)
    where = {"sampling": (sequential, "draw"), "training": (JsonLines, "on_log"), "between": (sequential, "write_json")}
    owner, name = where[moment]
    original, calls = getattr(owner, name), []

    def stop(*args, **kwargs):
        calls.append(1)
        # sampling: the third draw. training: past the checkpoint of step 4. between: what follows stage 3's decision
        if len(calls) == {"sampling": 3, "training": 22, "between": 6}[moment]:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, stop)
        with pytest.raises(KeyboardInterrupt):
            cut.train()
    assert len(read_stages(tmp_path / "cut")) == 2
    cut.train()
    told = [[replace(s, seconds=0.0) for s in read_stages(tmp_path / run)] for run in ("whole", "cut")]
    assert told[0] == told[1]
    assert len(told[0]) == 4
    whole, again = (load_file(tmp_path / run / "adapter" / "adapter_model.safetensors") for run in ("whole", "cut"))
    assert all(torch.equal(whole[key], again[key]) for key in whole)


def test_one_policy_and_one_score_live_at_a_time(tmp_path, monkeypatch):
    """Counted whenever a policy is loaded and whenever responses are scored."""
    seen = {"policies": [], "scores": []}

    def alive(kind):
        gc.collect(0)
        return sum(type(each).__name__ == kind for each in gc.get_objects())

    def load(*args):
        seen["policies"].append(alive("LlamaForCausalLM"))
        return load_policy(*args)

    score = RewardModels.score
    monkeypatch.setattr(sequential, "load_policy", load)
    monkeypatch.setattr(fit, "load_policy", load)
    monkeypatch.setattr(
        RewardModels, "score", lambda *rest: (score(*rest), seen["scores"].append(alive("FunctionScorer")))[0]
    )
    world = World(tmp_path, {"first": 0.3, "second": 1.0})
    gc.collect()
    before = alive("LlamaForCausalLM")
    world.sequential(tmp_path / "run", RESUMED, {"every": 1}, **SHORT).train()
    assert len(seen["policies"]) == 8
    assert set(seen["policies"]) == {before}
    assert set(seen["scores"]) == {1}


def test_a_palette_that_p0_keeps_moves_nothing(tmp_path):
    world = World(tmp_path, {"first": 0.3, "second": 1.0})
    world.targets = {"first": -5.0, "second": -5.0}
    world.sequential(tmp_path / "run", TRAINER | QUIET, {"every": None}).train()
    assert [stage.skipped for stage in read_stages(tmp_path / "run")] == [True, True]
    np.testing.assert_allclose(
        world.log_probs(tmp_path / "run" / "adapter"), tabular.log_probs(tabular.model()), atol=1e-5
    )
