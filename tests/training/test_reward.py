"""Truth: hand arithmetic for lam.r."""

import numpy as np
import pytest

from mapft.rewards.loader import RewardModels
from mapft.training.reward import PaletteReward
from mapft.utils.errors import UserError
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


def test_multipliers_of_the_reference_are_subtracted():
    models = RewardModels({"a": Fixed(1.0, 2.0)})
    assert PaletteReward(models, {"a": 2.0}, 1.0, reference_lam={"a": 2.5})(["p"] * 2, ["x"] * 2) == [-0.5, -1.0]


def test_a_score_that_is_not_finite_is_refused():
    models = RewardModels({"a": Fixed(1.0, np.nan)})
    with pytest.raises(UserError, match="'a' is nan for response 1"):
        PaletteReward(models, {"a": 1.0}, 1.0)(["p"] * 2, ["x"] * 2)
