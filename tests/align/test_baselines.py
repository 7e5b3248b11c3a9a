"""Truth: adapters added by hand, hand arithmetic, and the closed form of a Gaussian pilot."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from mapft.align import baselines
from mapft.config import ModelConfig
from mapft.errors import UserError
from mapft.palette import RewardMatrix, at_kl
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
    samples = pd.DataFrame({"prompt_id": [0, 0, 0, 1, 1], "prompt": list("xxxyy"), "response": list("abcde")})
    matrix = RewardMatrix([[1.0, 5.0], [2.0, 0.0], [2.0, 0.0], [3.0, 1.0], [1.0, 9.0]], ["a", "b"], [0, 0, 0, 1, 1])
    rows = baselines.preferences(["p0", "p1"], samples, matrix, {"a": 1.0, "b": 0.0}, 200, seed=0)
    assert len(rows) == 200
    pairs = {(row["prompt"], row["chosen"], row["rejected"]) for row in rows}
    assert pairs == {("p0", "b", "a"), ("p0", "c", "a"), ("p1", "d", "e")}
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
