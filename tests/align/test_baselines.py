"""Truth: adapters added by hand, hand arithmetic, and the closed form of a Gaussian pilot."""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from mapft.align import baselines
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
    PublishedMode,
    RefineConfig,
    SamplingConfig,
    ScalarizedMode,
    TrackingConfig,
    TrainerConfig,
)
from mapft.errors import UserError
from mapft.palette import Palette, RewardMatrix, at_kl, solve_dual
from mapft.sampling.models import load_policy
from tests.ppo import tabular


@pytest.fixture
def model(tmp_path):
    tabular.model().save_pretrained(tmp_path / "model")
    tabular.tokenizer().save_pretrained(tmp_path / "model")
    return ModelConfig(path=str(tmp_path / "model"))


def test_a_soup_is_the_weighted_sum_of_the_changes(tmp_path, model):
    """Two adapters of different rank and alpha, weights 1 and 3: W + .25 delta_1 + .75 delta_2, layer by layer."""
    adapters, changes = {}, {}
    for number, name in enumerate(("one", "two"), 1):
        lora = LoraConfig(r=2 * number, lora_alpha=8, target_modules="all-linear", exclude_modules=["lm_head"])
        tuned = get_peft_model(load_policy(model)[0], lora)
        torch.manual_seed(number)
        for key, parameter in tuned.named_parameters():
            if "lora_" in key:
                torch.nn.init.normal_(parameter, std=0.1)
        tuned.save_pretrained(tmp_path / name)
        adapters[name] = tmp_path / name
        changes[name] = tuned.merge_and_unload().state_dict()
    baselines.average(model, adapters, {"one": 1.0, "two": 3.0}, tmp_path)
    base, _ = load_policy(model)
    soup = PeftModel.from_pretrained(load_policy(model)[0], str(tmp_path / "adapter")).merge_and_unload()
    for key, weight in base.state_dict().items():
        by_hand = weight + 0.25 * (changes["one"][key] - weight) + 0.75 * (changes["two"][key] - weight)
        torch.testing.assert_close(soup.state_dict()[key], by_hand, atol=1e-6, rtol=0)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_preferences_follow_lam_r_within_a_prompt():
    """The second prompt has the truncated sample f, which TRL would end with an EOS that was never drawn."""
    samples = pd.DataFrame({"prompt_id": [0, 0, 0, 1, 1, 1], "response": list("abcdef")})
    samples["finished"] = [True] * 5 + [False]
    matrix = RewardMatrix(
        [[1.0, 5.0], [2.0, 0.0], [2.0, 0.0], [3.0, 1.0], [1.0, 9.0], [9.0, 0.0]], ["a", "b"], [0, 0, 0, 1, 1, 1]
    )
    rows = baselines.preferences(["p0", "p1"], samples, matrix, {"a": 1.0, "b": 0.0}, 200, seed=0)
    assert len(rows) == 200
    pairs = {(row["prompt"], row["chosen"], row["rejected"]) for row in rows}
    assert pairs == {("p0", "b", "a"), ("p0", "c", "a"), ("p1", "d", "e")}
    cut = baselines.preferences(["p0", "p1"], samples.assign(finished=False), matrix, {"a": 1.0, "b": 0.0}, 200, seed=0)
    assert "f" in set(cut["chosen"])
    again = baselines.preferences(["p0", "p1"], samples, matrix, {"a": 1.0, "b": 0.0}, 200, seed=0)
    assert again.to_list() == rows.to_list()
    chat = [[{"role": "user", "content": text}] for text in ("p0", "p1")]
    spoken = baselines.preferences(chat, samples, matrix, {"a": 1.0, "b": 0.0}, 4, seed=0)[0]
    assert spoken["chosen"] == [{"role": "assistant", "content": rows[0]["chosen"]}]
    with pytest.raises(UserError, match="tells apart"):
        baselines.preferences(["p0", "p1"], samples, matrix, {"a": 0.0, "b": 0.0}, 4, seed=0)


@dataclass
class Gaussian:
    """Scores N(0, S) under p0: p_lam is N(S lam, S), at lam' S lam / 2 nats."""

    cov = np.array([[1.0, 0.6], [0.6, 4.0]])

    def matrix(self):
        rng = np.random.default_rng(0)
        scores = rng.normal(size=(60_000, 2)) @ np.linalg.cholesky(self.cov).T
        return RewardMatrix(scores, ["a", "b"], np.repeat(np.arange(30_000), 2))


@pytest.mark.parametrize("weights", [{"a": 1.0}, {"a": 1.0, "b": 1.0}, {"b": 0.2, "a": 0.6}])
def test_a_direction_goes_as_far_as_its_price(weights):
    lam = at_kl(Gaussian().matrix(), weights, 0.3, estimator="pooled")
    lam_V = np.array([lam.get("a", 0.0), lam.get("b", 0.0)])
    assert lam_V @ Gaussian.cov @ lam_V / 2 == pytest.approx(0.3, rel=0.03)
    per_sd = lam_V * np.sqrt(np.diag(Gaussian.cov))
    wanted = np.array([weights.get("a", 0.0), weights.get("b", 0.0)])
    np.testing.assert_allclose(per_sd / per_sd.sum(), wanted / wanted.sum(), atol=0.01)


@pytest.mark.parametrize(
    ("weights", "kl", "said"),
    [
        ({"a": -1.0}, 0.3, "a=-1.0 give no direction"),
        ({"a": 0.0}, 0.3, "of 0 give no direction"),
        ({"c": 1.0}, 0.3, "no such value"),
        ({"a": 1.0}, 0.0, "positive distance"),
        ({"flat": 1.0}, 0.3, "scores of flat are constant"),
    ],
)
def test_a_direction_that_is_none(weights, kl, said):
    matrix = RewardMatrix([[0.0, 2.0], [1.0, 2.0], [2.0, 2.0], [0.0, 2.0]], ["a", "flat"], [0, 0, 1, 1])
    with pytest.raises(UserError, match=said):
        at_kl(matrix, weights, kl)


def test_a_kl_beyond_the_samples_is_said():
    """A score of 0 and 1, equally likely: no policy goes further than log 2."""
    matrix = RewardMatrix(np.array([[0.0], [1.0]] * 50), ["a"], np.repeat(np.arange(50), 2))
    assert at_kl(matrix, {"a": 1.0}, 0.6, estimator="pooled")["a"] < 10
    with pytest.raises(UserError, match="goes so far in the direction of a"):
        at_kl(matrix, {"a": 1.0}, 0.7, estimator="pooled")


@pytest.fixture
def fitted(monkeypatch):
    """What `fit` is asked for, in the place of training."""
    asked = []

    def fit(config, models, aim, prompts, folder):
        asked.append((config, aim))
        return aim.lam

    monkeypatch.setattr(baselines, "fit", fit)
    return asked


def settings(mode) -> Config:
    return Config(
        model=ModelConfig(path="x"),
        adapter=AdapterConfig(),
        data=DataConfig(path="x"),
        rewards={"a": {}, "b": {}},
        palette=PaletteConfig(absolute={"a": 0.4, "b": 0.5}),
        sampling=SamplingConfig(),
        dual=DualConfig(),
        mode=mode,
        trainer=TrainerConfig(),
        refine=RefineConfig(),
        decoding=DecodingConfig(),
        evaluation=EvaluationConfig(),
        comparison=ComparisonConfig(),
        tracking=TrackingConfig(),
        launch=LaunchConfig(name="cpu"),
    )


def test_a_mixture_is_aimed_at_the_palettes_distance_and_never_refined(tmp_path, fitted):
    matrix = Gaussian().matrix()
    solution = solve_dual(matrix, Palette({"a": 0.4, "b": 0.5}))
    mode = ScalarizedMode(name="scalarized", weights={"b": 2.0})
    lam = baselines.scalarized(settings(mode), {"a": None, "b": None}, solution, matrix, [], tmp_path)
    config, aim = fitted[0]
    assert aim.lam == lam == {"a": 0.0, "b": at_kl(matrix, {"b": 1.0}, solution.kl)["b"]}
    assert aim.reference_lam == {"a": 0.0, "b": 0.0}
    assert aim.targets == solution.targets
    assert config.refine.every is None
    assert config.trainer.kl_coef == 1.0
    baselines.scalarized(settings(replace(mode, kl=0.05)), {"a": None, "b": None}, solution, matrix, [], tmp_path)
    assert fitted[1][1].lam["b"] == at_kl(matrix, {"b": 1.0}, 0.05)["b"]


def test_the_published_recipe_rewards_lam_r_at_its_kl_weight(tmp_path, fitted):
    """PaletteReward pays kl_coef * lam.r: with lam / .2 that is the pooled dual's own lam.r."""
    matrix = Gaussian().matrix()
    solution = solve_dual(matrix, Palette({"a": 0.4, "b": 0.5}))
    pooled = solve_dual(matrix, Palette({"a": 0.4, "b": 0.5}), estimator="pooled")
    baselines.published(settings(PublishedMode(name="published")), {"a": 0, "b": 0}, solution, matrix, [], tmp_path)
    config, aim = fitted[0]
    assert config.trainer.kl_coef == 0.2
    for name, lam in pooled.lam.items():
        assert config.trainer.kl_coef * aim.lam[name] == pytest.approx(lam)
    assert config.refine.every is None


def test_a_soup_of_rank_stabilised_adapters_is_exact_and_of_dora_refused(tmp_path, model):
    for name, more in (("stable", {"use_rslora": True}), ("dora", {"use_dora": True})):
        lora = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", exclude_modules=["lm_head"], **more)
        tuned = get_peft_model(load_policy(model)[0], lora)
        for key, parameter in tuned.named_parameters():
            if "lora_" in key and "magnitude" not in key:
                torch.nn.init.normal_(parameter, std=0.1)
        tuned.save_pretrained(tmp_path / name)
        if name == "stable":
            whole = tuned.merge_and_unload().state_dict()
    twice = {"one": tmp_path / "stable", "two": tmp_path / "stable"}
    baselines.average(model, twice, {"one": 1.0, "two": 1.0}, tmp_path)
    soup = PeftModel.from_pretrained(load_policy(model)[0], str(tmp_path / "adapter")).merge_and_unload()
    for key, weight in whole.items():
        torch.testing.assert_close(soup.state_dict()[key], weight, atol=1e-5, rtol=0)
    with pytest.raises(UserError, match="use_dora"):
        baselines.average(model, {"d": tmp_path / "dora"}, {"d": 1.0}, tmp_path / "other")
