"""Truth: hand arithmetic for lam.r; what a killed run leaves on disk."""

import numpy as np
import pytest

from mapft.align.reward import PaletteReward
from mapft.errors import UserError


class Fixed:
    def __init__(self, *scores):
        self.scores = np.array(scores)

    def score(self, prompts, responses):
        return self.scores


def test_reward_is_kl_coef_lam_r_and_raw_scores_are_logged():
    logged = {}
    reward = PaletteReward({"a": Fixed(1.0, 2.0), "b": Fixed(-1.0, 3.0)}, {"a": 2.0, "b": 0.0}, kl_coef=0.5)
    assert reward(["p", "p"], ["x", "y"], log_metric=logged.__setitem__) == [1.0, 2.0]
    assert logged["map/scores/b"] == 1.0
    assert logged["map/scores_std/b"] == 2.0


def test_a_score_that_is_not_finite_is_refused():
    with pytest.raises(UserError, match="'a' is nan for response 1"):
        PaletteReward({"a": Fixed(1.0, np.nan)}, {"a": 1.0}, 1.0)(["p"] * 2, ["x"] * 2)
