"""Truth: hand arithmetic for lam.r; p_lam, which a constant in a score leaves as it is; the values of the rows."""

import json

import numpy as np
import pytest

from mapft.ppo.generation import PROMPT_TOKENS
from mapft.rewards.loader import RewardModels
from mapft.rewards.score import NO_COLUMNS
from mapft.sampling.prompts import PromptRow
from mapft.training.fit import training_dataset
from mapft.training.reward import COLUMNS, PaletteReward
from mapft.utils.errors import UserError
from tests.ppo import tabular
from tests.ppo.trainers import LAM, make_trainer
from tests.rewards.fixed import Fixed


def test_reward_is_kl_coef_lam_r_and_raw_scores_are_logged():
    logged = {}
    models = RewardModels({"a": Fixed(1.0, 2.0, nbytes=10), "b": Fixed(-1.0, 3.0, nbytes=20)})
    reward = PaletteReward(models, {"a": 2.0, "b": 0.0}, kl_coef=0.5)
    assert reward(["p", "p"], ["x", "y"], log_metric=logged.__setitem__) == [1.0, 2.0]
    assert logged["map/scores/b"] == 1.0
    assert logged["map/scores_std/b"] == 2.0
    assert logged["memory/reward_models_loaded"] == 2
    assert logged["memory/reward_models_gb"] == pytest.approx(30e-9)


def test_columns_come_back_from_the_dataset_as_they_were():
    """Mixed types, and the text "42", which a dataset's own JSON columns read as a number."""
    values = [42, "42", 2.5, True, None, ["a", 1], {"b": None}, "x"]
    rows = [PromptRow("p", {"answer": value, "level": n}) for n, value in enumerate(values)]
    dataset = training_dataset(rows)
    assert dataset.column_names == ["prompt", PROMPT_TOKENS, COLUMNS]
    assert training_dataset([PromptRow("p")]).column_names == ["prompt", PROMPT_TOKENS]
    seen, keys = [], []

    class Reading(Fixed):
        def reads(self, available):
            return ["answer"]

        def score(self, prompts, responses, columns):
            seen.append(columns)
            return self.scores

    def observe(state, prompts, scores, log_ratio):
        keys.extend(prompts)
        return {"a": 1.0}

    reward = PaletteReward(RewardModels({"a": Reading(*[1.0] * 8)}), {"a": 1.0}, 1.0, observe)
    reward(prompts=dataset["prompt"], completions=["x"] * 8, columns=dataset[COLUMNS])
    assert json.dumps(seen) == json.dumps([{"answer": values}])
    assert len(set(keys)) == 8  # rows of one prompt with other columns are other rows for the refinement of lambda


def test_multipliers_of_the_reference_are_subtracted():
    models = RewardModels({"a": Fixed(1.0, 2.0)})
    assert PaletteReward(models, {"a": 2.0}, 1.0, reference_lam={"a": 2.5})(["p"] * 2, ["x"] * 2) == [-0.5, -1.0]


def test_a_score_that_is_not_finite_is_refused():
    models = RewardModels({"a": Fixed(1.0, np.nan)})
    with pytest.raises(UserError, match="'a' is nan for response 1"):
        PaletteReward(models, {"a": 1.0}, 1.0)(["p"] * 2, ["x"] * 2)


class Shifted(Fixed):
    """A value of the tabular world, of sd 1, plus a constant; responses are the words of their tokens."""

    def __init__(self, number: int, shift: float):
        super().__init__()
        self.table = tabular.TableReward(tabular.scores()[:, :, number] + shift)

    def score(self, prompts, responses, columns=NO_COLUMNS):
        ids = [[tabular.WORDS.index(word) for word in response.split()] for response in responses]
        return np.array(self.table(list(prompts), ids))


def trained(folder, shift: float) -> np.ndarray:
    """log pi(y|x) after a short training whose scores, and their base levels, are shifted."""
    models = RewardModels({"a": Shifted(0, shift), "b": Shifted(1, shift)})
    lam, base = dict(zip("ab", LAM, strict=True)), {"a": 0.3 + shift, "b": -0.2 + shift}
    reward = PaletteReward(models, lam, kl_coef=1.0, base=base)

    def palette(completion_ids, response_texts, **options):
        words = [" ".join(tabular.WORDS[i] for i in ids) for ids in completion_ids]  # with EOS
        return reward(response_texts=words, **options)

    trainer = make_trainer(folder, [palette], total_episodes=1024)
    trainer.train()
    return tabular.log_probs(trainer.model.eval())


@pytest.mark.parametrize("shift", [32.0, -100.0, 2.0**23])
def test_a_constant_in_a_score_changes_nothing(tmp_path, shift):
    """At 2^23 sd float32 would keep no digit of a difference between scores behind the point; float64 keeps nine."""
    unshifted, shifted = trained(tmp_path / "without", 0.0), trained(tmp_path / "with", shift)
    assert tabular.kl(unshifted, tabular.log_probs(tabular.model())) > 0.05
    np.testing.assert_allclose(shifted, unshifted, atol=1e-4)
